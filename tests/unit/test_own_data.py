"""One's own pictures: a folder and a JSONL file of 50 rows train by the recipes that are shipped for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from soho.errors import SohoError
from soho.pipelines import SohoPipeline
from soho.runs import check_data, evaluate, train
from soho.training.recipe import Recipe, load_recipe
from soho.training.tracking import read_log
from tests.support import ROOT
from tests.tiny_recipes import MODEL, write_recipe

COLOURS = ("red", "green", "blue", "white", "black")
SHAPES = ("circle", "square")


def picture_rows(folder: Path) -> list[dict[str, Any]]:
    """Draw fifty pictures; returns file name, colour and shape of each."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(50):
        colour, shape = COLOURS[number % 5], SHAPES[number // 5 % 2]
        size = (120, 80) if number % 3 else (80, 120)
        picture = Image.new("RGB", size, (90, 120 + number, 90))
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "circle" else pen.rectangle)((20, 20, 60, 60), fill=colour)
        picture.save(folder / "images" / f"{number}.jpg")
        rows.append({"image": f"{number}.jpg", "colour": colour, "shape": shape})
    return rows


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture(scope="module")
def my_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as docs/data.md describes it: images/, captions.jsonl and questions.jsonl."""
    folder = tmp_path_factory.mktemp("own") / "my_data"
    rows = picture_rows(folder)
    captions: list[dict[str, Any]] = []
    for row in rows:
        first, second = f"a {row['colour']} {row['shape']}", f"the {row['shape']} is {row['colour']}"
        text = {"caption": first} if len(captions) < 25 else {"captions": [first, second]}
        captions.append({"image": row["image"], **text})
    write_rows(folder / "captions.jsonl", captions)
    questions: list[dict[str, Any]] = [
        {"image": row["image"], "question": "What colour is it?", "answer": row["colour"]} for row in rows[:25]
    ]
    for row in rows[25:]:
        answers = [row["shape"], row["shape"], "thing"]
        questions.append({"image": row["image"], "question": "What is it?", "answers": answers})
    write_rows(folder / "questions.jsonl", questions)
    return folder


def own_recipe(kind: str, folder: Path, output: Path, start: Path | None = None, *overrides: str) -> Recipe:
    """Return the shipped recipe with this folder's paths, a tiny model and few steps."""
    source = {"format": "jsonl", "annotations": str(folder / f"{kind}.jsonl"), "images": str(folder / "images")}
    # From nothing, as the recipe's header describes; what it names from the hub is not here.
    model: dict[str, Any] = {**MODEL, "start": None, "backbone": None, "text": None, "text_layers": None}
    model["config"] = {**MODEL["config"], "max_position_embeddings": 32}
    if start:
        model = {"start": str(start), "config": {"dictionary_size": 16}}  # 512 in the recipe, as in its base
    values = {
        "base": str(ROOT / "recipes" / "own" / f"{kind}.yaml"),
        "output": str(output),
        "model": model,
        "data": {"train": [source], "validation": [source], "shorter_edge": 64, "longer_edge": 128, "workers": 0},
        "training": {"epochs": 1, "max_steps": 4, "log_every": 1, "evaluate_every": None, "freeze_backbone_epochs": 0},
    }
    return load_recipe(write_recipe(output.parent / f"{output.name}.yaml", values), overrides)


def test_own_captions_and_then_own_questions_train(my_data: Path, tmp_path: Path) -> None:
    captions = own_recipe("captions", my_data, tmp_path / "captions")
    run = train(captions)
    assert run.summary.steps == 4
    assert all(record["loss"] > 0 for record in read_log(captions.output))
    match = SohoPipeline.from_pretrained(run.model_folder).match(my_data / "images" / "0.jpg", "a red circle")
    assert 0 < match[0].probability < 1

    questions = own_recipe("questions", my_data, tmp_path / "questions", run.model_folder)
    answered = train(questions)
    assert answered.summary.steps == 3  # batches of 32: 33 wide pictures and 17 tall ones
    best = SohoPipeline.from_pretrained(answered.model_folder).answer(my_data / "images" / "0.jpg", "what is it?")
    assert {prediction.text for prediction in best} <= {*COLOURS, *SHAPES}
    figures = evaluate(questions, "validation")
    assert 0 <= figures["accuracy"] <= 1
    # Always "circle" (15 of 25 shapes): two of three annotators, leave-one-out (.5 + .5 + 1) / 3.
    assert figures["majority"] > 0


def test_own_data_pass_the_check(my_data: Path, tmp_path: Path) -> None:
    recipe = own_recipe("captions", my_data, tmp_path / "run", None, "data.validation=[]")
    report = check_data(recipe)
    assert report.sound, report.lines()
    assert "50" in "\n".join(report.lines())


BROKEN: list[tuple[str, Any, str]] = [
    ("captions", '{"image": "0.jpg", "caption": "x"', "not JSON"),
    ("captions", "0.jpg,a red circle", "not JSON"),
    ("captions", ["0.jpg", "x"], 'an object like {"image": ..., "captions": [...]} was expected, found a list'),
    ("captions", {"image": "0.jpg", "captoin": "x"}, 'unknown key "captoin"; did you mean "caption"?'),
    ("captions", {"image": "0.jpg", "caption": "x", "zzz": 1}, 'unknown key "zzz"; known are image'),
    ("captions", {"image": "0.jpg", "caption": "x", "captions": ["y"]}, 'both "caption" and "captions" are given'),
    ("captions", {"caption": "x"}, 'the key "image" is missing'),
    ("captions", {"image": "0.jpg"}, 'neither "captions" nor "question" is given'),
    ("captions", {"image": "0.jpg", "caption": "x", "answer": "y"}, "an answer is given without a question"),
    ("captions", {"image": "0.jpg", "captions": "x"}, '"captions" must be a list of strings, found a string'),
    ("captions", {"image": "0.jpg", "captions": ["x", 3]}, '"captions" must be a list of strings, but number 2 is'),
    ("captions", {"image": "0.jpg", "captions": []}, '"captions" is an empty list'),
    ("captions", {"image": "0.jpg", "captions": ["x", ""]}, 'number 2 of "captions" is empty'),
    ("captions", {"image": "0.jpg", "caption": " "}, '"caption" is empty'),
    ("captions", {"image": "0.jpg", "caption": 3}, '"caption" must be a string, found a number: 3'),
    ("captions", {"image": "0.jpg", "caption": "x", "id": [1]}, '"id" must be a string or a number, found a list'),
    ("captions", {"image": "gone.jpg", "caption": "x"}, 'the image "gone.jpg" is not in '),
    ("questions", {"image": "0.jpg", "question": "x?", "answers": "y"}, '"answers" must be a list of strings'),
    ("questions", {"image": "0.jpg", "question": "", "answer": "y"}, '"question" is empty'),
    ("questions", {"image": "0.jpg", "question": "x?", "answers": []}, '"answers" is an empty list'),
    ("questions", {"image": "0.jpg", "question": "x?", "answer": ""}, '"answer" is empty'),
    ("questions", {"image": 7, "question": "x?", "answer": "y"}, '"image" must be a string, found a number: 7'),
]


@pytest.mark.parametrize(("kind", "row", "sentence"), BROKEN)
def test_every_broken_row_stops_training_with_one_sentence(
    my_data: Path, tmp_path: Path, kind: str, row: Any, sentence: str
) -> None:
    good = (my_data / f"{kind}.jsonl").read_text().splitlines()
    folder = tmp_path / "my_data"
    folder.mkdir()
    (folder / "images").symlink_to(my_data / "images")
    write_rows(folder / f"{kind}.jsonl", [*good[:30], row, *good[30:]])
    recipe = own_recipe(kind, folder, tmp_path / "run")
    with pytest.raises(SohoError) as caught:
        train(recipe)
    message = str(caught.value)
    assert message.startswith(f"{folder / f'{kind}.jsonl'}:31: {sentence}")
    assert "\n" not in message
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_rows_that_are_not_text(my_data: Path, tmp_path: Path) -> None:
    good = (my_data / "captions.jsonl").read_bytes()
    path = tmp_path / "captions.jsonl"
    path.write_bytes(good + b'{"image": "0.jpg", "caption": "caf\xe9"}\n')
    recipe = own_recipe("captions", my_data, tmp_path / "run", None, f"data.train.0.annotations={path}")
    with pytest.raises(SohoError) as caught:
        train(recipe)
    assert str(caught.value) == f"{path}:51: not UTF-8 text; save the file as UTF-8"


def test_an_id_that_is_used_twice(my_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    write_rows(path, [{"image": f"{number}.jpg", "caption": "x", "id": "7"} for number in range(2)])
    recipe = own_recipe("captions", my_data, tmp_path / "run", None, f"data.train.0.annotations={path}")
    with pytest.raises(SohoError) as caught:
        train(recipe)
    assert str(caught.value) == f'{path}:2: the id "7" was used in line 1'
