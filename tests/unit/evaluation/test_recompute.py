from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from soho.errors import SohoError
from soho.evaluation.recompute import read_scores, recompute, shortlist_recall, write_gallery
from soho.evaluation.retrieval_protocols import retrieval_figures
from soho.evaluation.score_matrix import ScoreMatrix, shard_rows
from soho.evaluation.shortlist import kept_share

OWNERS = np.array([0, 0, 1, 2, 3])
SCORES = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def write(
    folder: Path, world_size: int = 1, finished: bool = True, shortlist: int | None = None, content: str = "model a"
) -> Path:
    """Leave what a scoring by some processes leaves; the first stage of a shortlist is SCORES as they are."""
    folder.mkdir(exist_ok=True)
    for stem, scores in {"scores": SCORES if shortlist is None else SCORES * 2, "first_stage": SCORES}.items():
        for rank in range(world_size) if stem == "scores" or shortlist is not None else ():
            rows = shard_rows(4, rank, world_size)
            record = ScoreMatrix(folder, "key", rank, world_size, content=content, stem=stem)
            record.begin(len(rows), 5, 8)
            if len(rows):
                record.write(np.arange(len(rows)), np.arange(5), scores[rows])
            if finished:
                record.finish()
    write_gallery(folder, [f"{row}.jpg" for row in range(4)], list("abcde"), OWNERS, world_size, shortlist)
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
    (folder / "scores.npy").write_bytes(b"no matrix")
    with pytest.raises(SohoError, match=r"scores\.npy is damaged: expected a NumPy matrix"):
        recompute(folder)
    for key, value in (("processes", "one"), ("processes", 0), ("texts", ["a"]), ("images", 4)):
        folder = write(tmp_path / "damaged")
        fields = json.loads((folder / "gallery.json").read_text())
        (folder / "gallery.json").write_text(json.dumps({**fields, key: value}))
        with pytest.raises(SohoError, match=r"gallery\.json is damaged: expected lists images, texts and text_image"):
            recompute(folder)


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_shortlist_is_measured_against_exact_scores(tmp_path: Path, world_size: int) -> None:
    exact, folder = write(tmp_path / "exact"), write(tmp_path / "shortlist-2", world_size, shortlist=2)
    figures = recompute(folder, exact=exact)
    assert {name: value for name, value in figures.items() if not name.startswith("shortlist_")} == recompute(folder)
    recall = {name: value for name, value in figures.items() if name.startswith("shortlist_")}
    assert recall == shortlist_recall(folder, exact)
    # Its own length; longer ones would be all of the 4 x 5 pairs.
    assert recall == {f"shortlist_2/{name}": share for name, share in kept_share(SCORES, SCORES, 2).items()}
    assert 0.4 <= recall["shortlist_2/pairs"] < 1  # at least two of the five texts of every picture


def test_a_shortlist_is_not_measured_against_anything_else(tmp_path: Path) -> None:
    exact, folder = write(tmp_path / "exact"), write(tmp_path / "shortlist-2", shortlist=2)
    with pytest.raises(SohoError, match="exact holds exact scores and no shortlist; expected a folder shortlist-<k>"):
        shortlist_recall(exact, exact)
    with pytest.raises(SohoError, match="shortlist-2 holds a shortlist of 2; expected a folder with exact scores"):
        shortlist_recall(folder, folder)
    other = write(tmp_path / "other", content="model b")
    with pytest.raises(SohoError, match="other are of another model, data or precision"):
        shortlist_recall(folder, other)
    (folder / "first_stage.npy").unlink()
    with pytest.raises(SohoError, match=r"first_stage\.npy does not exist"):
        shortlist_recall(folder, exact)


def test_parts_of_different_models_are_not_joined(tmp_path: Path) -> None:
    folder = write(tmp_path / "scores", 2)
    record = json.loads((folder / "progress-1-of-2.json").read_text())
    (folder / "progress-1-of-2.json").write_text(json.dumps({**record, "content": "model b"}))
    with pytest.raises(SohoError, match="are of different models or data"):
        read_scores(folder)


def test_a_finished_record_of_an_older_version_learns_what_it_is_about(tmp_path: Path) -> None:
    folder = write(tmp_path / "scores")
    record = json.loads((folder / "progress.json").read_text())
    del record["content"]
    (folder / "progress.json").write_text(json.dumps(record))
    assert read_scores(folder).content == ""
    ScoreMatrix(folder, "another key", content="model b")
    assert read_scores(folder).content == ""
    ScoreMatrix(folder, "key", content="model a")
    assert read_scores(folder).content == "model a"
