"""Pre-training: what a sample is made of, that an epoch is complete, and what validation measures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soho.data.dataset import SampleKey
from soho.errors import SohoError
from soho.tasks import PretrainingTask, Processes
from soho.tasks.batches import Picture, stack_pictures
from soho.training.recipe import load_recipe
from tests.tiny_recipes import REGIONS, captions, tiny_recipe, tiny_values, write_recipe
from tests.unit.tasks.numbered import FIRST_REGION, Numbers, numbered_task, write_numbered


@pytest.fixture(scope="module")
def numbered(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    out = tmp_path_factory.mktemp("numbered") / "world"
    return out, write_numbered(world, out)


@pytest.fixture(scope="module")
def task(world: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainingTask:
    return PretrainingTask(tiny_recipe("pretraining", world, tmp_path_factory.mktemp("task") / "run"))


def assert_same(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, list) and len(value) and isinstance(value[0], np.ndarray):
            assert all(np.array_equal(a, b) for a, b in zip(value, right[name], strict=True)), name
        elif isinstance(value, Picture):
            assert_same(stack_pictures([value]), stack_pictures([right[name]]))
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            assert np.array_equal(np.asarray(value), np.asarray(right[name])), name
        else:
            assert value == right[name], name


def positives_of(task: PretrainingTask, numbers: Numbers, epoch: int, processes: Processes) -> Counter[int]:
    """Return how often each caption is a positive in an epoch of one process."""
    loader = task.train_loader(processes)
    counts: Counter[int] = Counter()
    for batch in loader.batches.batches(epoch):
        for item in batch:
            fields = loader.dataset[SampleKey(item.index, epoch, item.filler)].fields
            counts += Counter(numbers.of(ids) for ids, match in zip(fields["ids"], fields["itm_labels"]) if match == 1)
    return counts


# -- A sample -------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_pure_function_of_its_key(task: PretrainingTask) -> None:
    dataset = task.train_loader(Processes()).dataset
    keys = [SampleKey(index, epoch) for epoch in (0, 3) for index in (0, 1, 5, 11)]
    forward = {key: dataset[key].fields for key in keys}
    np.random.seed(99)
    torch.manual_seed(99)
    again = PretrainingTask(task.recipe).train_loader(Processes(1, 2)).dataset
    for key in reversed(keys):
        assert_same(again[key].fields, forward[key])
    for first, later in zip(keys[:4], keys[4:]):
        assert not np.array_equal(forward[first]["mvm_draws"], forward[later]["mvm_draws"])


def test_another_seed_gives_other_draws(task: PretrainingTask) -> None:
    other = PretrainingTask(task.recipe.model_copy(update={"seed": 1}))
    mine, theirs = (t.train_loader(Processes()).dataset[SampleKey(0, 0)].fields for t in (task, other))
    assert not np.array_equal(mine["mvm_draws"], theirs["mvm_draws"])


def test_batches_do_not_depend_on_the_number_of_workers(task: PretrainingTask) -> None:
    recipe = task.recipe.model_copy(deep=True)
    recipe.data.workers = 2
    here, workers = task.train_loader(Processes()).epoch(1, 14), PretrainingTask(recipe).train_loader(Processes())
    count = 0
    for mine, theirs in zip(here, workers.epoch(1, 14), strict=True):
        assert_same(mine, theirs)
        count += 1
    assert count == workers.batches_per_epoch - 14 == 5  # 144 turns of two shapes, 8 at a time: 19 batches


def test_two_processes_see_what_one_sees_with_the_doubled_batch(task: PretrainingTask) -> None:
    recipe = task.recipe.model_copy(deep=True)
    recipe.training.batch_size = 4
    halves = [PretrainingTask(recipe).train_loader(Processes(rank, 2)).epoch(0, 14) for rank in (0, 1)]
    for whole, first, second in zip(task.train_loader(Processes()).epoch(0, 14), *halves, strict=True):
        assert torch.equal(whole["pixel_values"], torch.cat([first["pixel_values"], second["pixel_values"]]))
        for name in ("itm_labels", "mvm_draws"):
            assert torch.equal(whole[name], torch.cat([first[name], second[name]])), name
        assert (whole["labels"] != -100).sum() == (first["labels"] != -100).sum() + (second["labels"] != -100).sum()


def test_two_matching_and_two_foreign_texts_beside_every_picture(task: PretrainingTask) -> None:
    batch = next(task.train_loader(Processes()).epoch(0))
    assert batch["pixel_values"].shape == (8, 3, 128, 192)
    assert batch["pixel_mask"].shape == (8, 128, 192)
    assert batch["itm_labels"].tolist() == [1, 1, 0, 0] * 8
    assert batch["pair_image_index"].tolist() == [row for row in range(8) for _ in range(4)]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape
    assert batch["input_ids"].shape[0] == 32
    assert batch["input_ids"].shape[1] <= 20
    assert batch["mvm_draws"].shape == (32,)
    assert 0 <= batch["mvm_draws"].min() < batch["mvm_draws"].max() < 1


def test_masked_tokens_and_their_labels(task: PretrainingTask) -> None:
    dataset = task.train_loader(Processes()).dataset
    tokenizer = task.processor.tokenizer
    masked = tokens = hidden = 0
    for index in range(48):
        fields = dataset[SampleKey(index, 0)].fields
        example = dataset.items[index].example
        own = {tuple(task.processor.encode(text)) for text in example.captions}
        for ids, labels, match in zip(fields["ids"], fields["labels"], fields["itm_labels"]):
            assert ids.shape == labels.shape
            original = np.where(labels == -100, ids, labels)
            assert (tuple(original.tolist()) in own) == bool(match)
            special = np.isin(original, tokenizer.all_special_ids)
            assert (labels[special] == -100).all()
            masked += int((labels != -100).sum())
            hidden += int((ids == tokenizer.mask_token_id).sum())
            tokens += int((~special).sum())
    # 15 % of the tokens, 80 % of these hidden: 48 x 4 texts hold some 2,300 tokens, so 3 standard deviations are 2.3
    # and 6.5 points.
    assert masked / tokens == pytest.approx(0.15, abs=0.023)
    assert hidden / masked == pytest.approx(0.8, abs=0.065)


def test_a_filler_counts_for_nothing(task: PretrainingTask) -> None:
    loader = task.train_loader(Processes())
    places = loader.batches.batches(0)[0][:2]  # of one shape
    batch = loader.collate([loader.dataset[SampleKey(item.index, 0, filler=True)].fields for item in places])
    assert batch["pixel_values"].shape == (2, 3, 128, 192)
    assert not batch["pixel_mask"].any()
    assert batch["pixel_values"].eq(0).all()
    assert batch["labels"].eq(-100).all()
    assert batch["itm_labels"].tolist() == [-100] * 8
    assert batch["mvm_draws"].shape == (8,)
    model, _ = task.build_model()
    assert {name: float(count) for name, count in model.loss_counts(batch).items()} == {"mlm": 0, "itm": 0, "mvm": 0}
    output = model(**batch)
    assert output.loss.item() == 0.0


def test_mlm_is_counted_for_matching_texts_only(task: PretrainingTask) -> None:
    batch = next(task.train_loader(Processes()).epoch(0))
    model, _ = task.build_model()
    matching = torch.tensor([True, True, False, False] * 8)
    counts = model.loss_counts(batch)
    assert float(counts["mlm"]) == int((batch["labels"][matching] != -100).sum()) > 0
    assert int((batch["labels"][~matching] != -100).sum()) > 0  # masked too, or masking alone would tell them apart
    assert (float(counts["mvm"]), float(counts["itm"])) == (16, 32)


# -- An epoch -------------------------------------------------------------------------------------------------------


def test_every_caption_is_a_positive_once_an_epoch(numbered: tuple[Path, dict[int, str]]) -> None:
    root, photos = numbered
    task = numbered_task(PretrainingTask, root)
    numbers = Numbers(task, photos)
    expected = {caption for example in task.examples("train") for caption in example.captions}
    counts = positives_of(task, numbers, 0, Processes())
    assert len(counts) == len(expected)
    # 1, 2, 3, 4, 5 captions need 1, 1, 2, 2, 3 turns of two: 1, 0, 1, 0, 1 captions come twice.
    twice = Counter(photos[number] for number, times in counts.items() if times == 2)
    for example in task.examples("train"):
        assert twice[example.photo_key] == len(example.captions) % 2
    assert set(counts.values()) == {1, 2}
    assert positives_of(task, numbers, 1, Processes()) != counts  # which one comes twice is drawn anew


@pytest.mark.parametrize("count", [2, 5])
def test_an_epoch_is_complete_over_several_processes(numbered: tuple[Path, dict[int, str]], count: int) -> None:
    root, photos = numbered
    whole = numbered_task(PretrainingTask, root, "training.batch_size=10")
    numbers = Numbers(whole, photos)
    expected = positives_of(whole, numbers, 2, Processes())
    parts = numbered_task(PretrainingTask, root, f"training.batch_size={10 // count}")
    shares = [positives_of(parts, numbers, 2, Processes(rank, count)) for rank in range(count)]
    assert sum(shares, Counter()) == expected
    lengths = {parts.train_loader(Processes(rank, count)).batches_per_epoch for rank in range(count)}
    assert lengths == {whole.train_loader(Processes()).batches_per_epoch}


def test_a_limit_of_captions_per_epoch_takes_others_in_another_epoch(numbered: tuple[Path, dict[int, str]]) -> None:
    root, photos = numbered
    task = numbered_task(PretrainingTask, root, "data.captions_per_image_per_epoch=2", regions=True)
    numbers = Numbers(task, photos)
    seen: set[int] = set()
    for epoch in range(12):
        counts = positives_of(task, numbers, epoch, Processes())
        regions = Counter(photos[number] for number in counts if number >= FIRST_REGION)
        assert set(regions.values()) == {2}  # six regions each, two of them an epoch
        seen |= set(counts)
    possible = sum(len(example.captions) for example in task.examples("train"))
    assert len(seen) > 0.97 * possible  # a region is missed twelve times with probability (2/3)^12 = 0.8 %


def test_a_negative_never_shows_the_same_photo_also_in_another_data_set(numbered: tuple[Path, dict[int, str]]) -> None:
    root, photos = numbered
    task = numbered_task(PretrainingTask, root, regions=True)
    numbers = Numbers(task, photos)
    dataset = task.train_loader(Processes()).dataset
    sources = set()
    drawn: Counter[str] = Counter()
    for epoch in range(4):
        for index, item in enumerate(dataset.items):
            fields = dataset[SampleKey(index, epoch)].fields
            assert fields["itm_labels"] == [1, 1, 0, 0]
            first, second, third, fourth = (numbers.photo(ids) for ids in fields["ids"])
            own = item.example.photo_key
            assert first == second == own
            assert own not in (third, fourth)
            assert third != fourth
            sources |= {("region" if numbers.of(ids) >= FIRST_REGION else "caption") for ids in fields["ids"][2:]}
            drawn += Counter((third, fourth))
    assert sources == {"region", "caption"}
    assert len(drawn) == 48  # any photograph may be drawn


def test_a_single_photograph_has_no_negatives(world: Path, tmp_path: Path) -> None:
    values = tiny_values("pretraining", world, tmp_path / "run")
    values["data"]["train"] = [{**captions("train"), "limit": 1}, {**REGIONS, "limit": 1}]
    task = PretrainingTask(load_recipe(write_recipe(tmp_path / "one.yaml", values)))
    loader = task.train_loader(Processes())
    with pytest.raises(SohoError, match="no caption of any other photograph"):
        next(loader.epoch(0))


# -- Validation -----------------------------------------------------------------------------------------------------


def test_validation_says_what_mvm_has_to_beat(task: PretrainingTask) -> None:
    torch.manual_seed(0)
    model, _ = task.build_model()
    model.train()
    figures = task.evaluate(model, "validation", Processes())
    assert model.training
    assert task.evaluate(model, "validation", Processes()) == figures

    # The same by hand, from the batches of the epoch that validation draws from.
    model.eval()
    codes: Counter[int] = Counter()
    right = total = 0
    losses: Counter[str] = Counter()
    terms: Counter[str] = Counter()
    loader = task._loader("validation", Processes(), 8, shuffle=False)
    with torch.no_grad():
        for batch in loader.epoch(-1):
            output = model(**batch)
            codes += Counter(value for value in output.mvm_labels.flatten().tolist() if value >= 0)
            predicted = output.logits.argmax(-1)
            right, total = right + int((predicted == batch["itm_labels"]).sum()), total + len(predicted)
            for name, count in model.loss_counts(batch).items():
                terms[name] += float(count)
                losses[name] += float(output.loss_parts[name] * count)
    share = max(codes.values()) / sum(codes.values())
    assert figures["mvm_majority"] == pytest.approx(share)
    entropy = -sum(n / sum(codes.values()) * np.log(n / sum(codes.values())) for n in codes.values())
    assert figures["perplexity"] == pytest.approx(np.exp(entropy))
    assert figures["itm_accuracy"] == pytest.approx(right / total)
    assert total == 16 * 3 * 4
    for name in ("mlm", "mvm", "itm"):
        assert figures[f"{name}_loss"] == pytest.approx(losses[name] / terms[name], rel=1e-5)
    assert figures["loss"] == pytest.approx(sum(figures[f"{name}_loss"] for name in ("mlm", "mvm", "itm")))


def test_without_a_dictionary_there_is_no_mvm(task: PretrainingTask) -> None:
    recipe = task.recipe.model_copy(deep=True)
    recipe.model.config["use_dictionary"] = False
    plain = PretrainingTask(recipe)
    model, _ = plain.build_model()
    figures = plain.evaluate(model, "validation", Processes())
    assert not {"mvm_majority", "perplexity", "mvm_loss"} & set(figures)
    assert figures["loss"] == pytest.approx(figures["mlm_loss"] + figures["itm_loss"])
