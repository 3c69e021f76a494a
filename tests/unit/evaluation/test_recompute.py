from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from soho.errors import SohoError
from soho.evaluation.recompute import read_scores, recompute, write_gallery
from soho.evaluation.retrieval_protocols import retrieval_figures
from soho.evaluation.score_matrix import ScoreMatrix, shard_rows

OWNERS = np.array([0, 0, 1, 2, 3])
SCORES = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def write(folder: Path, world_size: int = 1, finished: bool = True) -> Path:
    """Leave what a scoring by some processes leaves."""
    folder.mkdir(exist_ok=True)
    for rank in range(world_size):
        rows = shard_rows(4, rank, world_size)
        record = ScoreMatrix(folder, "key", rank, world_size)
        record.begin(len(rows), 5, 8)
        if len(rows):
            record.write(np.arange(len(rows)), np.arange(5), SCORES[rows])
        if finished:
            record.finish()
    write_gallery(folder, [f"{row}.jpg" for row in range(4)], list("abcde"), OWNERS, world_size)
    return folder


@pytest.mark.parametrize("world_size", [1, 3, 5])  # with five one process has no row
def test_the_matrix_comes_back_whole(tmp_path: Path, world_size: int) -> None:
    found = read_scores(write(tmp_path / "scores", world_size))
    np.testing.assert_array_equal(found.scores, SCORES)
    assert (found.images[3], found.texts[4]) == ("3.jpg", "e")
    assert found.text_image.tolist() == OWNERS.tolist()
    assert recompute(tmp_path / "scores", folds=2) == retrieval_figures(SCORES, OWNERS, 2)


def test_parts_of_another_number_of_processes_are_not_mixed_in(tmp_path: Path) -> None:
    folder = write(tmp_path / "scores", 2)
    np.save(folder / "scores.npy", np.zeros((4, 5), dtype=np.float32))
    np.testing.assert_array_equal(read_scores(folder).scores, SCORES)


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"gallery\.json does not exist; expected a folder scores-<split>"):
        recompute(tmp_path)
    with pytest.raises(SohoError, match=r"scores\.npy is not finished; `soho evaluate` goes on"):
        recompute(write(tmp_path / "half", finished=False))
    folder = write(tmp_path / "other")
    write_gallery(folder, ["0.jpg"], list("abcde"), [0] * 5)
    with pytest.raises(SohoError, match=r"scores\.npy has the shape \(4, 5\), but .*gallery\.json says \(1, 5\)"):
        recompute(folder)
    (folder / "gallery.json").write_text(json.dumps({"images": []}))
    with pytest.raises(SohoError, match='the key "processes" is missing'):
        recompute(folder)
    (folder / "gallery.json").write_text("{")
    with pytest.raises(SohoError, match="is not JSON"):
        recompute(folder)
    folder = write(tmp_path / "gone")
    (folder / "scores.npy").unlink()
    with pytest.raises(SohoError, match=r"scores\.npy does not exist; run `soho evaluate` again"):
        recompute(folder)
