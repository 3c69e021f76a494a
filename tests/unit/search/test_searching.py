"""Two stages find what scoring every pair finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soho.errors import SohoError
from soho.evaluation.pair_scoring import score_all_pairs
from soho.models.pair_scorer import GridScorer
from soho.pipelines import SohoPipeline
from soho.search import Found, PictureIndex
from soho.search.first_stage import Best, nearest
from tests.unit.search.small import WORDS, make_model


@pytest.fixture
def index(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> PictureIndex:
    # Windows of four, so that several segments take part.
    return PictureIndex.build(library, pipeline, tmp_path / "index", dtype="float32", window=4, progress=False)


def names(found: list[Found]) -> list[str]:
    return [one.path.name for one in found]


def pair_scores(pipeline: SohoPipeline, paths: list[Path]) -> np.ndarray:
    """Return what the pair-scoring engine of `soho evaluate` says of every picture and every text."""
    batches = []
    for row, path in enumerate(paths):
        batch = pipeline.processor(images=Image.open(path))
        batches.append((batch["pixel_values"], batch["pixel_mask"], [row]))
    words = pipeline.processor(text=WORDS)
    scorer = GridScorer(pipeline.model)  # type: ignore[arg-type]
    return np.asarray(score_all_pairs(scorer, batches, words["input_ids"], words["attention_mask"], progress=False))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"match_adds_contrast": False},
        {"itc_pooling": "fusion"},
        {"itc_pooling": "dual_encoder", "visual_summary": True, "fusion_start": 1},
    ],
    ids=["sum", "fusion alone", "read alone", "dual encoder"],
)
def test_scores_are_those_of_the_pair_scorer(library: Path, tmp_path: Path, fields: dict[str, object]) -> None:
    pipeline = SohoPipeline.from_pretrained(make_model(tmp_path / "model", **fields))
    index = PictureIndex.build(library, pipeline, tmp_path / "index", dtype="float32", window=4, progress=False)
    paths = sorted(path for path in library.rglob("p*.*") if path.is_file())
    expected = pair_scores(pipeline, paths)  # (11, 4)
    assert expected.std() > 0.01
    for column, found in enumerate(index.search(WORDS, top=11, rerank=11)):
        assert names(found) == [paths[row].name for row in np.argsort(-expected[:, column])]
        scores = [one.score for one in found]
        np.testing.assert_allclose(scores, np.sort(expected[:, column])[::-1], atol=2e-5)
    direct = pipeline.search(WORDS, paths, top=5, batch_size=3)
    for column, hits in enumerate(direct):
        order = np.argsort(-expected[:, column])[:5]
        assert [hit.place for hit in hits] == list(order)
        np.testing.assert_allclose([hit.score for hit in hits], expected[order, column], atol=2e-5)


def test_two_stages_equal_exact_where_all_are_candidates(index: PictureIndex) -> None:
    for k in (11, 50):
        two, exact = index.search(WORDS, top=4, rerank=k), index.search(WORDS, top=4, exact=True)
        for left, right in zip(two, exact):
            assert names(left) == names(right)
            np.testing.assert_allclose([one.score for one in left], [one.score for one in right], atol=2e-5)
            np.testing.assert_allclose([one.similarity for one in left], [one.similarity for one in right], atol=1e-6)


def test_fewer_candidates_are_those_of_the_vectors(index: PictureIndex) -> None:
    by_vectors = index.search(WORDS, top=11, rerank=0)
    exact = index.search(WORDS, top=11, exact=True)
    changed = 0
    for text, near, best in zip(WORDS, by_vectors, exact):
        assert [one.score for one in near] == [None] * 11
        assert near[0].probability is None
        similarities = [one.similarity for one in near]
        assert similarities == sorted(similarities, reverse=True)
        found = names(index.search(text, top=3, rerank=3)[0])
        assert set(found) == set(names(near)[:3])
        assert found == [name for name in names(best) if name in found]
        changed += names(near) != names(best)
        assert names(index.search(text, top=5, rerank=3)[0]) == names(index.search(text, top=5, rerank=5)[0])
    assert changed  # else this test would say nothing


def test_a_text_alone_and_among_others(index: PictureIndex) -> None:
    together = index.search(WORDS, top=3)
    for text, found in zip(WORDS, together):
        alone = index.search(text, top=3)
        assert len(alone) == 1
        assert names(alone[0]) == names(found)


def test_an_index_opens_with_the_model_it_was_made_with(index: PictureIndex, model_folder: Path) -> None:
    again = PictureIndex.open(index.folder)
    assert again.pipeline.folder == model_folder
    assert len(again) == 11
    assert again.search(WORDS, top=5) == index.search(WORDS, top=5)


@pytest.mark.parametrize(("dtype", "close"), [("float16", 0.01), ("bfloat16", 0.1)])
def test_stored_tokens_in_half_precision(
    library: Path, pipeline: SohoPipeline, index: PictureIndex, tmp_path: Path, dtype: str, close: float
) -> None:
    half = PictureIndex.build(library, pipeline, tmp_path / "half", dtype=dtype, progress=False)
    assert (tmp_path / "half" / "segment-000001.bin").stat().st_size == 11 * 6 * 16 * 2  # pictures, tokens, C, bytes
    expected = {one.path: one.score for one in index.search("snow", top=11)[0]}
    assert {one.path: one.score for one in half.search("snow", top=11)[0]} == pytest.approx(expected, abs=close)


def test_fast_settings_stay_near(library: Path, pipeline: SohoPipeline, index: PictureIndex, tmp_path: Path) -> None:
    fast = PictureIndex.build(library, pipeline, tmp_path / "fast", fast=True, progress=False)
    expected = {one.path: one.score for one in index.search("snow", top=11)[0]}
    assert {one.path: one.score for one in fast.search("snow", top=11)[0]} == pytest.approx(expected, abs=0.3)
    plain = PictureIndex.open(tmp_path / "fast", pipeline)  # the same index serves both
    assert len(plain.search("snow")[0]) == 10


def test_a_graph_proposes_and_exact_products_decide(index: PictureIndex, library: Path) -> None:
    pytest.importorskip("usearch", reason="needs the extra: pip install 'soho-vlp[search]'")
    exact = index.search(WORDS, top=4)
    assert index.graph is None
    index.update(graph_from=11, progress=False)
    file = next(index.folder.glob("graph-*"))
    assert index.graph.size == 11
    for left, right in zip(index.search(WORDS, top=4), exact):
        assert names(left) == names(right)
        assert [one.similarity for one in left] == pytest.approx([one.similarity for one in right], abs=1e-6)
    data = file.read_bytes()
    file.unlink()
    index.update(graph_from=11, progress=False)
    assert file.read_bytes() == data  # the same pictures give the same graph
    next(library.rglob("p05.png")).unlink()
    index.update(graph_from=None, progress=False)
    assert index.graph is None
    assert not list(index.folder.glob("graph-*"))
    assert "p05.png" not in names(index.search("snow", top=11)[0])


def test_the_graph_names_its_extra(index: PictureIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    with pytest.raises(SohoError, match=r"needs usearch: pip install 'soho-vlp\[search\]', or leave the graph out"):
        index.update(graph_from=1, progress=False)


def test_bad_questions(index: PictureIndex) -> None:
    with pytest.raises(SohoError, match="an empty text finds nothing"):
        index.search(["snow", "  "])
    with pytest.raises(SohoError, match="top=0 must be at least 1"):
        index.search("snow", top=0)


def test_the_best_of_several_blocks_by_hand() -> None:
    best = Best(2, 3)
    best.add(np.array([[0.1, 0.9], [0.5, 0.5]], dtype=np.float32), np.array([7, 8]))
    best.add(np.array([[0.3, 0.2, 0.8], [0.5, 0.1, 0.0]], dtype=np.float32), np.array([1, 2, 3]))
    scores, pictures = best.ranked()
    assert pictures.tolist() == [[8, 3, 1], [1, 7, 8]]  # equal scores in the order of the numbers
    np.testing.assert_allclose(scores, [[0.9, 0.8, 0.3], [0.5, 0.5, 0.5]])


def test_the_first_stage_by_hand() -> None:
    class Fixed:
        def __init__(self, vectors: list[list[float]], live: list[int]) -> None:
            self.vectors, self.live = np.array(vectors, dtype=np.float32), np.array(live)

    segments = [Fixed([[1, 0], [0, 1], [0.6, 0.8]], [0, 2]), Fixed([[0.8, 0.6]], [0])]
    scores, pictures = nearest(segments, np.array([[0.0, 1.0]], dtype=np.float32), 2)  # type: ignore[arg-type]
    assert pictures.tolist() == [[2, 1 << 32]]  # row 1 of the first segment is no longer in the library
    np.testing.assert_allclose(scores, [[0.8, 0.6]])


# -- SohoPipeline.search --------------------------------------------------------------------------------------------


def test_search_of_given_pictures(library: Path, pipeline: SohoPipeline) -> None:
    paths = sorted(library.rglob("*.png"))
    assert len(paths) == 4  # one of them hidden: what is named is read
    hits = pipeline.search("two dogs", [paths[0], Image.open(paths[1]), str(paths[2])])
    assert len(hits) == 1
    assert sorted(hit.place for hit in hits[0]) == [0, 1, 2]
    for hit in hits[0]:
        alone = pipeline.match(paths[hit.place], "two dogs")[0]
        assert hit.probability == pytest.approx(alone.probability, abs=1e-5)
    assert pipeline.search(["a", "b"], []) == [[], []]
    with pytest.raises(SohoError, match="top=0 must be at least 1"):
        pipeline.search("a", paths, top=0)
    twice = pipeline.search("two dogs", [paths[0], paths[0]])[0]
    assert [hit.place for hit in twice] == [0, 1]
    assert not pipeline.model.training
