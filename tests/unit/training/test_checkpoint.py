from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soho.errors import SohoError
from soho.training import checkpoint as module
from soho.training.checkpoint import (
    list_checkpoints,
    load_progress,
    load_state,
    random_state,
    remove_partial,
    save_checkpoint,
    set_random_state,
    write_text_atomically,
)


def save(output: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(output, step, {"weight": torch.full((2,), float(step))}, {"step": step}, keep)


def test_round_trip_and_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    newest = list_checkpoints(tmp_path)[-1]
    assert load_progress(newest) == {"step": 100}
    assert load_state(newest)["weight"].tolist() == [100.0, 100.0]


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "nothing") == []


@pytest.mark.parametrize("moment", ["while writing tensors", "before the rename"])
def test_a_crash_while_writing_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def half_written(state: Any, file: Any) -> None:
        file.write(b"half a ")
        raise Killed

    def no_rename(*paths: Any) -> None:
        raise Killed

    save(tmp_path, 5)
    with monkeypatch.context() as patch:
        if moment == "while writing tensors":
            patch.setattr(module.torch, "save", half_written)
        else:
            patch.setattr(module.os, "rename", no_rename)
        with pytest.raises(Killed):
            save(tmp_path, 10, keep=1)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [".partial-step-00000010", "step-00000005"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005"]
    assert load_state(list_checkpoints(tmp_path)[-1])["weight"].tolist() == [5.0, 5.0]

    assert [path.name for path in remove_partial(tmp_path)] == [".partial-step-00000010"]
    save(tmp_path, 10)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000005", "step-00000010"]


def test_everything_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(module.os, "fsync", lambda descriptor: (events.append("fsync"), real_fsync(descriptor)))
    monkeypatch.setattr(module.os, "rename", lambda *paths: (events.append("rename"), real_rename(*paths)))
    save(tmp_path, 1)
    # state.pt, progress.json and their folder; then the name; then the folder that holds the name.
    assert events == ["fsync", "fsync", "fsync", "rename", "fsync"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(SohoError, match=r"step-00000003 cannot be written: No space left on device"):
        save(tmp_path, 3)


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_an_unreadable_checkpoint_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path, 3)
    (path / "state.pt").write_bytes(content)
    with pytest.raises(SohoError, match="delete this folder to continue from the one before it"):
        load_state(path)
    (path / "progress.json").write_bytes(b"{")
    with pytest.raises(SohoError, match="cannot be read"):
        load_progress(path)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    torch.save({"weight": Path("x")}, path / "state.pt")
    with pytest.raises(SohoError, match="cannot be read"):
        load_state(path)


def test_random_states_of_all_generators_survive_a_checkpoint(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))]

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draws()  # leaves a cached second Gaussian behind
    path = save_checkpoint(tmp_path, 1, {"random": [random_state()]}, {}, 1)
    expected = [draws(), draws()]
    set_random_state(load_state(path)["random"][0])
    assert [draws(), draws()] == expected


def test_small_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text_atomically(path, "1")
    write_text_atomically(path, json.dumps([2]))
    assert path.read_text() == "[2]"
    assert os.listdir(tmp_path) == ["a.json"]
