"""Retrieval: the t x t grid of a batch, the gallery, and chance beside the figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soho.data.dataset import SampleKey
from soho.data.images import decode
from soho.errors import SohoError
from soho.evaluation.recompute import read_scores, recompute
from soho.models import SohoForImageTextRetrieval
from soho.processing import SohoImageProcessor
from soho.tasks import Processes, RetrievalTask
from soho.tasks.batches import blank_picture
from soho.tasks.retrieval import collate_grid
from tests.tiny_recipes import tiny_recipe
from tests.unit.tasks.numbered import Numbers, numbered_task, write_numbered


@pytest.fixture(scope="module")
def task(world: Path, tmp_path_factory: pytest.TempPathFactory) -> RetrievalTask:
    return RetrievalTask(tiny_recipe("retrieval", world, tmp_path_factory.mktemp("task") / "run"))


@pytest.fixture(scope="module")
def model(task: RetrievalTask) -> SohoForImageTextRetrieval:
    torch.manual_seed(3)
    built, _ = task.build_model()
    assert isinstance(built, SohoForImageTextRetrieval)
    return built.eval()


def sample(photo_key: str, ids: list[int], filler: bool = False) -> dict[str, Any]:
    picture = blank_picture(SohoImageProcessor(shorter_edge=64, longer_edge=64), (64, 64), visible=not filler)
    return {"picture": picture, "ids": ids, "photo_key": photo_key, "filler": filler}


def test_a_batch_is_a_grid_of_pairs_with_the_aligned_ones_on_the_diagonal() -> None:
    batch = collate_grid([sample("a", [2, 7, 3]), sample("b", [2, 3]), sample("c", [2, 8, 9, 3])])
    assert batch["pixel_values"].shape == (3, 3, 64, 64)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0], [2, 3, 0, 0], [2, 8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["pair_image_index"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch["pair_text_index"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert batch["labels"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_another_caption_of_the_same_photo_is_no_negative() -> None:
    batch = collate_grid([sample("a", [2, 7, 3]), sample("b", [2, 3]), sample("a", [2, 8, 3])])
    assert batch["labels"].view(3, 3).tolist() == [[1, 0, -100], [0, 1, 0], [-100, 0, 1]]


def test_pairs_with_a_filler_are_ignored() -> None:
    batch = collate_grid([sample("a", [2, 7, 3]), sample("b", [2, 3], filler=True), sample("c", [2, 8, 3])])
    assert batch["labels"].view(3, 3).tolist() == [[1, -100, 0], [-100, -100, -100], [0, -100, 1]]


def test_a_filler_is_not_read_and_counts_for_nothing(task: RetrievalTask, model: SohoForImageTextRetrieval) -> None:
    loader = task.train_loader(Processes())
    places = loader.batches.batches(0)[0][:2]  # of one shape
    batch = loader.collate([loader.dataset[SampleKey(item.index, 0, filler=True)].fields for item in places])
    assert not batch["pixel_mask"].any()
    assert batch["labels"].tolist() == [-100] * 4
    assert {name: float(value) for name, value in model.loss_counts(batch).items()} == {"match": 0.0}


@pytest.mark.parametrize("count", [1, 2])
def test_every_caption_comes_once_an_epoch(world: Path, tmp_path: Path, count: int) -> None:
    photos = write_numbered(world, tmp_path / "world")
    task = numbered_task(RetrievalTask, tmp_path / "world")
    numbers = Numbers(task, photos)
    seen: Counter[int] = Counter()
    for rank in range(count):
        loader = task.train_loader(Processes(rank, count))
        for item in (item for batch in loader.batches.batches(1) for item in batch if not item.filler):
            fields = loader.dataset[SampleKey(item.index, 1)].fields
            assert numbers.photo(fields["ids"]) == fields["photo_key"]
            seen[numbers.of(fields["ids"])] += 1
    assert len(seen) == sum(len(example.captions) for example in task.examples("train"))
    assert set(seen.values()) == {1}


def changed(task: RetrievalTask, **limits: int) -> RetrievalTask:
    recipe = task.recipe.model_copy(deep=True)
    recipe.evaluation = recipe.evaluation.model_copy(update=limits)
    return RetrievalTask(recipe)


def test_the_gallery_and_its_limits(task: RetrievalTask) -> None:
    texts, owner = task.gallery_texts("test")
    assert (len(texts), owner.tolist()) == (100, [row for row in range(20) for _ in range(5)])
    examples = task.examples("test")
    assert texts[5:10] == list(examples[1].captions)
    texts, owner = changed(task, captions_per_image=1).gallery_texts("test")
    assert texts == [example.captions[0] for example in examples]
    assert owner.tolist() == list(range(20))
    texts, owner = changed(task, max_images=3, captions_per_image=2).gallery_texts("test")
    assert owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert texts == [caption for example in examples[:3] for caption in example.captions[:2]]
    _, owner = changed(task, max_images=3, max_texts=7).gallery_texts("test")
    assert owner.tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_scores_are_those_of_the_model_on_every_pair(task: RetrievalTask, model: SohoForImageTextRetrieval) -> None:
    small = changed(task, max_images=4, captions_per_image=2)
    scores, owner = small.score(model, "test", Processes())
    assert scores.shape == (4, 8)
    assert owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    texts, _ = small.gallery_texts("test")
    pictures = [decode(example.image) for example in small.examples("test")[:4]]
    batch = small.processor(images=pictures, text=texts)
    pairs = {
        "pair_image_index": torch.arange(4).repeat_interleave(8),
        "pair_text_index": torch.arange(8).repeat(4),
    }
    with torch.no_grad():
        logits = model(**batch, **pairs).logits
    # The match logit against the no-match logit ranks as the probability does.
    expected = (logits[:, 1] - logits[:, 0]).view(4, 8).numpy()
    np.testing.assert_allclose(np.asarray(scores, dtype=np.float64), expected, atol=1e-4)


def test_figures_stand_beside_chance(
    task: RetrievalTask, model: SohoForImageTextRetrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = changed(task, max_images=10, captions_per_image=2)
    owner = np.arange(10).repeat(2)
    perfect = (owner == np.arange(10)[:, None]).astype(np.float32)
    monkeypatch.setattr(small, "score", lambda *_: (perfect, owner))
    figures = small.evaluate(model, "test", Processes())
    assert (figures["tr_r1"], figures["ir_r1"]) == (1.0, 1.0)
    assert (figures["tr_median_rank"], figures["ir_median_rank"]) == (1.0, 1.0)
    assert (figures["images"], figures["texts"]) == (10.0, 20.0)
    assert figures["chance/ir_r1"] == pytest.approx(0.1)
    assert figures["chance/ir_r5"] == pytest.approx(0.5)
    assert figures["chance/tr_r1"] == pytest.approx(2 / 20)
    # Both captions miss the first five of twenty places: 15/20 * 14/19.
    assert figures["chance/tr_r5"] == pytest.approx(1 - 15 / 20 * 14 / 19)
    constant = np.zeros((10, 20), dtype=np.float32)
    monkeypatch.setattr(small, "score", lambda *_: (constant, owner))
    assert small.evaluate(model, "test", Processes())["ir_r1"] == 0.0  # a constant score is no perfect one


def test_evaluation_of_an_untrained_model(task: RetrievalTask, model: SohoForImageTextRetrieval) -> None:
    model.train()
    figures = task.evaluate(model, "test", Processes())
    assert model.training
    model.eval()
    assert (figures["images"], figures["texts"]) == (20.0, 100.0)
    assert figures["chance/tr_r1"] == pytest.approx(0.05)
    assert all(0 <= figures[name] <= 1 for name in ("tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10"))
    assert figures["ir_r1"] <= figures["ir_r5"] <= figures["ir_r10"]


def test_the_scores_left_on_disk_give_the_same_figures(
    task: RetrievalTask, model: SohoForImageTextRetrieval, tmp_path: Path
) -> None:
    small = changed(task, captions_per_image=2, folds=4)
    figures = small.evaluate(model, "test", Processes(), tmp_path / "scores")
    assert (figures["images"], figures["texts"], figures["folds"]) == (20, 40, 4)
    assert figures["chance/5_images/ir_r1"] == pytest.approx(1 / 5)
    assert recompute(tmp_path / "scores", folds=4) == figures
    assert read_scores(tmp_path / "scores").texts == small.gallery_texts("test")[0]


def test_folds_that_do_not_fit_are_told_before_anything_is_scored(
    task: RetrievalTask, model: SohoForImageTextRetrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = changed(task, max_images=4, folds=5)
    monkeypatch.setattr(small, "score", lambda *_: pytest.fail("scored"))
    with pytest.raises(SohoError, match=r"evaluation\.folds=5 is more than the 4 images"):
        small.evaluate(model, "test", Processes())


@pytest.fixture(scope="module")
def contrastive(task: RetrievalTask) -> tuple[RetrievalTask, SohoForImageTextRetrieval]:
    recipe = task.recipe.model_copy(deep=True)
    recipe.model.config["itc_weight"] = 1.0
    recipe.evaluation.captions_per_image = 2
    torch.manual_seed(4)
    other = RetrievalTask(recipe)
    built, _ = other.build_model()
    assert isinstance(built, SohoForImageTextRetrieval)
    return other, built.eval()


def test_a_shortlist_stands_beside_exact_scores_and_is_measured_against_them(
    contrastive: tuple[RetrievalTask, SohoForImageTextRetrieval], tmp_path: Path
) -> None:
    task, model = contrastive
    short = changed(task, shortlist=3)
    figures = short.evaluate(model, "test", Processes(), tmp_path)
    assert figures["shortlist"] == 3
    assert not [name for name in figures if name.startswith("shortlist_")]
    assert "recall of the shortlist against exact scores is not known" in short.notes[-1]
    task.evaluate(model, "test", Processes(), tmp_path)
    exact = np.array(read_scores(tmp_path).scores)
    figures = short.evaluate(model, "test", Processes(), tmp_path)
    np.testing.assert_array_equal(read_scores(tmp_path).scores, exact)  # left alone
    assert 3 / 40 < figures["shortlist_3/pairs"] < 0.5
    assert figures["shortlist_3/kept_tr"] <= figures["shortlist_5/kept_tr"] <= figures["shortlist_20/kept_tr"] == 1.0
    assert recompute(tmp_path / "shortlist-3", exact=tmp_path) | {"shortlist": 3.0} == figures
    scores = read_scores(tmp_path / "shortlist-3").scores
    same = np.isclose(scores, exact, atol=1e-4)
    assert same.mean() == pytest.approx(figures["shortlist_3/pairs"])
    # The first stage is the model's contrastive similarity.
    texts, _ = short.gallery_texts("test")
    batch = short.processor(images=[decode(short.examples("test")[0].image)], text=texts)
    with torch.no_grad():
        visual, visual_mask = model.image_tokens(batch["pixel_values"], batch["pixel_mask"])
        words, words_mask = model.text_tokens(batch["input_ids"], batch["attention_mask"])
        similar = model.image_vectors(visual, visual_mask) @ model.text_vectors(words, words_mask).t()
    first = read_scores(tmp_path / "shortlist-3", "first_stage").scores
    np.testing.assert_allclose(first[0], similar[0].numpy(), atol=1e-5)


def test_a_shortlist_needs_the_contrastive_head(task: RetrievalTask, model: SohoForImageTextRetrieval) -> None:
    with pytest.raises(SohoError, match=r"evaluation\.shortlist=3 needs a model with the contrastive head"):
        changed(task, shortlist=3).evaluate(model, "test", Processes())
