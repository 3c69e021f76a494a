"""Question answering: the answer vocabulary, soft labels, the blind baseline and the majority baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from soho.data.dataset import SampleKey
from soho.data.schema import ImageRef, VisualQuestion
from soho.errors import SohoError
from soho.models import SohoForQuestionAnswering
from soho.tasks import Processes, VqaTask
from soho.tasks.groups import group_by_picture
from soho.tasks.vqa import collate_questions, read_answers
from soho.training.recipe import load_recipe
from tests.tiny_recipes import tiny_recipe, tiny_values, write_recipe

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "question": "What colour?", "answers": ["red", "red", "blue"]},
    {"image": "b.png", "question": "Is it round?", "answers": ["Yes.", "yes", "yes", "yes"]},
    {"image": "a.png", "question": "Which one?", "answer": "the red"},
    {"image": "b.png", "question": "Whose is it?", "answer": "nobody"},
    {"image": "b.png", "question": "How many are there?", "answers": ["red", "blue"]},
]


def own_task(folder: Path, *overrides: str) -> VqaTask:
    """Return the task on five questions about two pictures, with a vocabulary of red, blue and yes."""
    folder.mkdir(exist_ok=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (96, 64), colour).save(folder / name)
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "answers.json").write_text('["red", "blue", "yes"]')
    values = tiny_values("vqa", folder, folder / "run")
    source = {"format": "jsonl", "annotations": "{root}/q.jsonl"}
    values["data"] |= {"train": [source], "validation": [source], "test": [], "answers": "{root}/answers.json"}
    values["data"] |= {"shorter_edge": 64, "longer_edge": 96}
    return VqaTask(load_recipe(write_recipe(folder / "r.yaml", values), overrides))


@pytest.fixture
def task(tmp_path: Path) -> VqaTask:
    return own_task(tmp_path / "own")


def test_soft_labels(task: VqaTask) -> None:
    dataset = task.train_loader(Processes()).dataset
    labels = {}
    for row, item in enumerate(dataset.items):
        (question,) = item.example.examples
        labels[question.question] = dataset[SampleKey(row, 0)].fields["labels"][0].tolist()
    assert labels == {
        "What colour?": pytest.approx([2 / 3, 1 / 3, 0]),
        "Is it round?": [0, 0, 1],  # four of four: not above 1
        "Which one?": [1, 0, 0],  # one annotator; articles do not count
        "How many are there?": [0.5, 0.5, 0],  # two annotators
    }
    assert "1 training questions have no answer of the vocabulary and are left out" in task.notes


def test_a_batch_and_its_fillers(task: VqaTask) -> None:
    loader = task.train_loader(Processes())
    dataset = loader.dataset
    batch = collate_questions([dataset[SampleKey(0, 0)].fields, dataset[SampleKey(1, 0, filler=True)].fields])
    assert batch["pixel_values"].shape == (2, 3, 64, 128)
    assert batch["labels"][0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert batch["labels"][1].tolist() == [-100.0] * 3
    assert batch["pixel_mask"].flatten(1).any(1).tolist() == [True, False]
    assert batch["rows"].tolist()[1] == -100
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    model, _ = task.build_model()
    assert [float(value) for value in model.loss_counts(batch).values()] == [1.0]


def test_questions_about_one_picture_share_it(tmp_path: Path) -> None:
    alone, together = own_task(tmp_path / "own"), own_task(tmp_path / "own", "data.questions_per_image=3")
    single = [item.example.examples[0] for item in alone.train_loader(Processes()).dataset.items]
    groups = [item.example for item in together.train_loader(Processes()).dataset.items]
    assert [len(group.examples) for group in groups] != [1] * len(single)
    assert sorted(q.question for group in groups for q in group.examples) == sorted(q.question for q in single)
    assert all(len({question.image for question in group.examples}) == 1 for group in groups)
    # One model gives the same loss however its questions are put together.
    model, _ = alone.build_model()
    model.eval()
    losses = []
    for task in (alone, together):
        total = count = 0.0
        for batch in task.train_loader(Processes()).epoch(0):
            terms = float(model.loss_counts(batch)["answer"])
            total += model(**batch).loss.item() * terms
            count += terms
        losses.append((total / count, count))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_groups_hold_at_most_so_many_questions() -> None:
    image, other = ImageRef("a.jpg"), ImageRef("b.jpg")
    records = [VisualQuestion(image=ref, photo_key="p", image_id="1", question_id=str(number), question="?")
               for number, ref in enumerate([image, other, image, image])]  # fmt: skip
    groups = group_by_picture(enumerate(records), 2)
    assert [group.rows for group in groups] == [(0, 2), (3,), (1,)]
    assert [len(group_by_picture(enumerate(records), most)) for most in (1, 3)] == [4, 2]


def test_the_blind_model_sees_grey_of_the_same_shape(tmp_path: Path) -> None:
    seeing, blind = own_task(tmp_path / "own"), own_task(tmp_path / "own", "data.image_blind=true")
    seen, unseen = (next(task.train_loader(Processes()).epoch(0)) for task in (seeing, blind))
    assert seen["pixel_values"].abs().max() > 1
    assert unseen["pixel_values"].abs().max() == 0
    rows, own = unseen["pair_image_index"], seen["pair_image_index"]
    assert torch.equal(seen["pixel_mask"][own], unseen["pixel_mask"][rows])
    assert unseen["pixel_mask"].any()
    for name in ("input_ids", "labels", "rows"):
        assert torch.equal(seen[name], unseen[name])


def test_the_answer_vocabulary_is_built_from_the_training_questions(tmp_path: Path) -> None:
    assert own_task(tmp_path / "own").answers() == ["red", "blue", "yes"]  # the file
    built = own_task(tmp_path / "own", "data.answers=null", "data.answer_minimum_count=1")
    assert built.answers() == ["red", "nobody", "yes"]  # majority answers: red 3, the others 1, then by alphabet
    assert own_task(tmp_path / "own", "data.answers=null", "data.answer_minimum_count=3").answers() == ["red"]
    with pytest.raises(SohoError, match=r"no answer is given to 4 or more questions .*\"red\", stands at 3.*lower"):
        own_task(tmp_path / "own", "data.answers=null", "data.answer_minimum_count=4").answers()


def test_the_model_gets_one_output_per_answer(task: VqaTask) -> None:
    model, _ = task.build_model()
    assert isinstance(model, SohoForQuestionAnswering)
    assert model.config.answers == ["red", "blue", "yes"]
    assert model.config.visual_input == "features"  # section 4.2
    batch = next(task.train_loader(Processes()).epoch(0))
    batch.pop("rows", None)
    assert model(**batch).logits.shape == (4, 3)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ('{"red": 0}', "must hold a JSON list of strings"),
        ('["red", 3]', "must hold a JSON list of strings"),
    ],
)
def test_a_bad_answer_file(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "answers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SohoError, match=sentence) as caught:
        read_answers(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_other_answers_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    task = own_task(tmp_path / "own")
    (tmp_path / "own" / "answers.json").write_text('["green"]')
    with pytest.raises(SohoError, match=r"no training question has an answer of the vocabulary; check data\.answers"):
        task.train_loader(Processes())


def test_accuracy_stands_beside_always_giving_the_most_frequent_answer(
    task: VqaTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert task.majority_answer() == "red"
    model, _ = task.build_model()
    assert isinstance(model, SohoForQuestionAnswering)
    # Leave-one-out: "red" scores (1 + 1 + 2 x 0 ...) / n; see test_vqa_score for the arithmetic.
    # What colour? red, red, blue: leaving out a red leaves 1 match of 2 needed, leaving out blue leaves 2: (.5+.5+1)/3.
    # Which one? exact. How many? red, blue: one needed; leaving out red 0, blue 1: 1/2. The others 0.
    majority = (2 / 3 + 0 + 1 + 0 + 1 / 2) / 5
    figures = task.evaluate(model, "validation", Processes())
    assert figures["majority"] == pytest.approx(majority)
    always_red = {row: [("red", 0.9)] for row in range(5)}
    monkeypatch.setattr(task, "predictions", lambda *_: always_red)
    assert task.evaluate(model, "validation", Processes())["accuracy"] == pytest.approx(majority)
    perfect = {0: "red", 1: "yes", 2: "red", 3: "nobody", 4: "blue"}
    monkeypatch.setattr(task, "predictions", lambda *_: {row: [(text, 1.0)] for row, text in perfect.items()})
    figures = task.evaluate(model, "validation", Processes())
    assert figures["accuracy"] == pytest.approx((2 / 3 + 1 + 1 + 1 + 1 / 2) / 5)


def test_a_picture_that_is_cut_off_is_not_measured_and_is_named(tmp_path: Path) -> None:
    task = own_task(tmp_path / "own")
    path = tmp_path / "own" / "b.png"
    Image.effect_noise((96, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    model, _ = task.build_model()
    assert isinstance(model, SohoForQuestionAnswering)
    assert sorted(task.predictions(model, "validation", Processes())) == [0, 2]
    (note,) = task.notes
    assert note.startswith("1 pictures of data.validation could not be decoded, and their questions have no answer")
    assert str(path) in note


def test_predictions_cover_every_question_once_over_processes(world: Path, tmp_path: Path) -> None:
    task = VqaTask(tiny_recipe("vqa", world, tmp_path / "run"))
    torch.manual_seed(0)
    model, _ = task.build_model()
    assert isinstance(model, SohoForQuestionAnswering)
    whole = task.predictions(model, "validation", Processes(), top=3)
    assert sorted(whole) == list(range(len(task.examples("validation"))))
    for best in whole.values():
        assert len(best) == 3
        assert best[0][1] >= best[1][1] >= best[2][1]
        assert {answer for answer, _ in best} <= set(task.answers())
    parts = [task.predictions(model, "validation", Processes(rank, 2)) for rank in (0, 1)]
    assert not set(parts[0]) & set(parts[1])
    joined = parts[0] | parts[1]
    assert sorted(joined) == sorted(whole)
    for row, best in joined.items():
        assert best[0][1] == pytest.approx(whole[row][0][1], abs=1e-5)


def test_test_questions_without_answers_are_predicted_and_not_scored(tmp_path: Path) -> None:
    task = own_task(tmp_path / "own")
    rows = [{"image": "a.png", "question": "Unknown?"}, ROWS[2]]
    (tmp_path / "own" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = task.recipe.model_copy(deep=True)
    recipe.data.test = [recipe.data.train[0].model_copy(update={"annotations": tmp_path / "own" / "test.jsonl"})]
    task = VqaTask(recipe)
    model, _ = task.build_model()
    assert isinstance(model, SohoForQuestionAnswering)
    assert sorted(task.predictions(model, "test", Processes())) == [0, 1]
    assert task.evaluate(model, "test", Processes())["majority"] == 1.0  # of the one question that has an answer
