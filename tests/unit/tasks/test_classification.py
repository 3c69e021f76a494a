"""NLVR2 and SNLI-VE: batches of one pair of shapes, labels, blindness, predictions, majority."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from soho.data.dataset import SampleKey
from soho.errors import SohoError
from soho.models import SohoForVisualEntailment, SohoForVisualReasoning
from soho.tasks import Nlvr2Task, Processes, SnliVeTask, build_task
from soho.tasks.classification import ClassificationTask, collate_classes
from soho.tasks.groups import group_by_picture
from soho.training.recipe import load_recipe
from tests.tiny_recipes import tiny_recipe, tiny_values, write_recipe
from tests.unit.data.pictures import write_jsonl

WIDE, TALL = (96, 64), (64, 96)
# Identifier, label, size of the left and of the right picture.
Pair = tuple[str, str, tuple[int, int], tuple[int, int]]
PAIRS: list[Pair] = [
    ("train-1-0-0", "True", WIDE, TALL),
    ("train-1-1-0", "False", TALL, WIDE),
    ("train-1-2-0", "True", WIDE, WIDE),
    ("train-1-3-0", "True", WIDE, TALL),
]


def pair_task(folder: Path, *overrides: str, rows: Sequence[Pair] = PAIRS) -> Nlvr2Task:
    """Return the task on four sentences; left pictures are reddish, right ones bluish."""
    folder.mkdir(exist_ok=True)
    for identifier, _, *sizes in rows:
        for side, (size, colour) in enumerate(zip(sizes, ("red", "blue"))):
            Image.new("RGB", size, colour).save(folder / f"{identifier.rsplit('-', 1)[0]}-img{side}.png")
    lines = [
        {"identifier": identifier, "label": label, "sentence": f"sentence {identifier[8]}"}
        for identifier, label, *_ in rows
    ]
    write_jsonl(folder / "train.json", lines)
    write_jsonl(folder / "balanced.json", lines[:2])
    values = tiny_values("nlvr2", folder, folder / "run")
    source = {"format": "nlvr2", "annotations": "{root}/train.json", "images": "{root}"}
    values["data"] |= {"train": [source], "validation": [source | {"balanced": str(folder / "balanced.json")}]}
    values["data"] |= {"test": [], "shorter_edge": 64, "longer_edge": 96}
    return Nlvr2Task(load_recipe(write_recipe(folder / "r.yaml", values), overrides))


def entailment_task(folder: Path, labels: list[str], *overrides: str) -> SnliVeTask:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", WIDE, "red").save(folder / "1.jpg")
    lines = [
        {"Flickr30K_ID": "1", "pairID": str(row), "gold_label": label, "sentence2": f"number {row}"}
        for row, label in enumerate(labels)
    ]
    values = tiny_values("snli_ve", folder, folder / "run")
    source = {"format": "snli_ve", "annotations": str(write_jsonl(folder / "a.jsonl", lines)), "images": "{root}"}
    values["data"] |= {"train": [source], "validation": [source], "test": [], "shorter_edge": 64, "longer_edge": 96}
    return SnliVeTask(load_recipe(write_recipe(folder / "r.yaml", values), overrides))


def test_a_batch_holds_one_shape_of_left_and_one_of_right_pictures(tmp_path: Path) -> None:
    task = pair_task(tmp_path / "own")
    batches = list(task.train_loader(Processes()).epoch(0))
    shapes = {(tuple(b["pixel_values"].shape[2:]), tuple(b["pixel_values_2"].shape[2:])) for b in batches}
    assert len(batches) == len(shapes) == 3  # two of the four share their shapes
    assert shapes == {((64, 128), (128, 64)), ((128, 64), (64, 128)), ((64, 128), (64, 128))}
    for batch in batches:
        left, right = batch["pixel_values"], batch["pixel_values_2"]
        assert (left[:, 0, 0, 0] > left[:, 2, 0, 0]).all()  # red
        assert (right[:, 0, 0, 0] < right[:, 2, 0, 0]).all()  # blue
        assert batch["pixel_mask"].flatten(1).sum(1).tolist() == [96 * 64] * len(left)
        assert batch["pixel_mask_2"].flatten(1).sum(1).tolist() == [96 * 64] * len(left)
    assert sorted(label for batch in batches for label in batch["labels"].tolist()) == [0, 1, 1, 1]


def test_fillers_have_no_label_no_row_and_no_picture(tmp_path: Path) -> None:
    dataset = pair_task(tmp_path / "own").train_loader(Processes()).dataset
    batch = collate_classes([dataset[SampleKey(0, 0)].fields, dataset[SampleKey(3, 0, filler=True)].fields])
    assert batch["labels"].tolist() == [1, -100]
    assert batch["rows"].tolist() == [0, -100]
    for name in ("pixel_mask", "pixel_mask_2"):
        assert batch[name].flatten(1).any(1).tolist() == [True, False]
    model, _ = pair_task(tmp_path / "own").build_model()
    assert isinstance(model, SohoForVisualReasoning)
    assert model.config.visual_input == "features"  # section 4.2
    assert model.loss_counts(batch) == {"reasoning": torch.tensor(1.0)}


def test_the_blind_model_sees_grey_of_the_same_shapes(tmp_path: Path) -> None:
    seeing, blind = pair_task(tmp_path / "own"), pair_task(tmp_path / "own", "data.image_blind=true")
    seen, unseen = (next(task.train_loader(Processes()).epoch(0)) for task in (seeing, blind))
    for name in ("pixel_values", "pixel_values_2"):
        assert seen[name].abs().max() > 1
        assert unseen[name].abs().max() == 0
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(seen[name], unseen[name])
    # Every sentence is read beside grey of its own pictures' shapes; equal ones stand there once.
    rows, own = unseen["pair_image_index"], seen["pair_image_index"]
    for name in ("pixel_mask", "pixel_mask_2"):
        assert torch.equal(seen[name][own], unseen[name][rows])
    assert len(unseen["pixel_values"]) == len(unseen["pixel_values_2"]) <= len(seen["pixel_values"])
    assert unseen["pixel_mask_2"].any()


def test_a_picture_that_cannot_be_read_costs_its_example_and_is_named(tmp_path: Path) -> None:
    recipe = pair_task(tmp_path / "own").recipe
    (tmp_path / "own" / "train-1-1-img1.png").write_bytes(b"no picture")
    task = Nlvr2Task(recipe)
    loader = task.train_loader(Processes())
    kept = [example.statement_id for item in loader.dataset.items for example in item.example.examples]
    assert kept == ["train-1-0-0", "train-1-2-0", "train-1-3-0"]
    assert len(task.notes) == 1
    assert task.notes[0].startswith("1 pictures cannot be read and are left out: ")
    assert task.notes[0].endswith("train-1-1-img1.png")


def test_a_picture_that_is_cut_off_is_not_measured_and_is_named(tmp_path: Path) -> None:
    task = pair_task(tmp_path / "own")
    path = tmp_path / "own" / "train-1-2-img0.png"
    Image.effect_noise(WIDE, 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    model, _ = task.build_model()
    assert sorted(task.predictions(model, "validation", Processes())) == [0, 1, 3]
    assert task.evaluate(model, "validation", Processes())["examples"] == 3
    assert task.notes[0].startswith("1 pictures of data.validation could not be decoded, and their examples are not")
    assert str(path) in task.notes[0]


def test_figures_of_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = pair_task(tmp_path / "own", "evaluation.baselines=true")
    model, _ = task.build_model()
    # True, True (wrong), a tie = False (wrong), True.
    said = {0: [0.1, 0.9], 1: [0.4, 0.6], 2: [0.5, 0.5], 3: [0.2, 0.8]}
    monkeypatch.setattr(task, "predictions", lambda *_: said)
    assert task.evaluate(model, "validation", Processes()) == pytest.approx(
        {
            "accuracy": 2 / 4,
            "consistency": 0.0,
            "balanced/accuracy": 1 / 2,
            "examples": 4,
            "sentences": 1,
            "majority": 3 / 4,  # "true", as three of the four training examples
        }
    )


def test_figures_of_hypotheses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["contradiction", "entailment", "neutral", "neutral"]
    task = entailment_task(tmp_path / "own", labels, "evaluation.baselines=true")
    model, _ = task.build_model()
    assert isinstance(model, SohoForVisualEntailment)
    said = {0: [0.2, 0.1, 0.7], 1: [0.2, 0.7, 0.1], 2: [0.1, 0.8, 0.1], 3: [0.1, 0.5, 0.4]}
    monkeypatch.setattr(task, "predictions", lambda *_: said)
    assert task.evaluate(model, "validation", Processes()) == pytest.approx(
        {
            "accuracy": 3 / 4,
            "contradiction/accuracy": 1.0,
            "entailment/accuracy": 0.0,
            "neutral/accuracy": 1.0,
            "examples": 4,
            "majority": 2 / 4,
        }
    )
    assert [task.class_of(example) for example in task.examples("train")] == [2, 0, 1, 1]


def test_the_first_class_among_equally_frequent_ones(tmp_path: Path) -> None:
    assert entailment_task(tmp_path / "a", ["contradiction", "neutral"]).majority_class() == 1
    assert entailment_task(tmp_path / "b", ["neutral", "contradiction", "contradiction"]).majority_class() == 2
    task = entailment_task(tmp_path / "d", ["neutral", "contradiction", "contradiction", "entailment"])
    assert task.majority_accuracy("train") == 2 / 4
    task = entailment_task(tmp_path / "c", ["neutral"], "evaluation.baselines=true")
    task.recipe.data.train = []
    with pytest.raises(SohoError, match=r"evaluation\.baselines needs data\.train"):
        task.majority_class()


def test_texts_about_the_same_pictures_share_them(tmp_path: Path) -> None:
    alone = entailment_task(tmp_path / "own", ["neutral", "contradiction", "entailment"])
    together = entailment_task(
        tmp_path / "own", ["neutral", "contradiction", "entailment"], "data.questions_per_image=2"
    )
    assert [len(item.example.examples) for item in alone.train_loader(Processes()).dataset.items] == [1, 1, 1]
    dataset = together.train_loader(Processes()).dataset
    assert [item.example.rows for item in dataset.items] == [(0, 1), (2,)]
    batch = collate_classes([dataset[SampleKey(row, 0)].fields for row in (0, 1)])
    assert batch["pixel_values"].shape == (2, 3, 64, 128)
    assert batch["pair_image_index"].tolist() == [0, 0, 1]
    assert batch["labels"].tolist() == [1, 2, 0]
    assert batch["rows"].tolist() == [0, 1, 2]
    assert len(batch["input_ids"]) == 3
    # One model gives the same loss however its hypotheses are put together.
    model, _ = alone.build_model()
    model.eval()
    single = alone.train_loader(Processes()).dataset
    apart = collate_classes([single[SampleKey(row, 0)].fields for row in (0, 1, 2)])
    with torch.no_grad():
        losses = [float(model(**{k: v for k, v in b.items() if k != "rows"}).loss) for b in (batch, apart)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_two_sentences_about_one_pair_of_pictures_stand_in_one_group(tmp_path: Path) -> None:
    rows = [
        ("train-1-0-0", "True", WIDE, TALL),
        ("train-1-1-0", "True", WIDE, TALL),
        ("train-1-0-1", "False", WIDE, TALL),
    ]
    examples = pair_task(tmp_path / "own", rows=rows).examples("train")
    assert [group.rows for group in group_by_picture(enumerate(examples), 16)] == [(0, 2), (1,)]


@pytest.mark.parametrize("name", ["nlvr2", "snli_ve"])
def test_predictions_cover_every_example_once_over_processes(world: Path, tmp_path: Path, name: str) -> None:
    task = build_task(tiny_recipe(name, world, tmp_path / "run"))
    assert isinstance(task, ClassificationTask)
    torch.manual_seed(0)
    model, _ = task.build_model()
    whole = task.predictions(model, "validation", Processes())
    assert sorted(whole) == list(range(len(task.examples("validation"))))
    assert all(sum(shares) == pytest.approx(1) for shares in whole.values())
    parts = [task.predictions(model, "validation", Processes(rank, 2)) for rank in (0, 1)]
    assert not set(parts[0]) & set(parts[1])
    joined = parts[0] | parts[1]
    assert sorted(joined) == sorted(whole)
    for row, shares in joined.items():
        assert shares == pytest.approx(whole[row], abs=1e-5)


def test_texts_of_the_vocabulary(tmp_path: Path) -> None:
    assert entailment_task(tmp_path / "a", ["neutral", "neutral"]).texts() == ["number 0", "number 1"]
    assert pair_task(tmp_path / "b").texts() == [f"sentence {pair}" for pair in range(4)]
