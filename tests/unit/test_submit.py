"""`soho submit vqa`: questions without annotations in, a checked server file out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from soho.errors import SohoError
from soho.runs import asked_questions, evaluate, submit_answers
from soho.training.recipe import Recipe, load_recipe
from tests.support import Soho, shared_data
from tests.tiny_recipes import questions, tiny_recipe, tiny_values, write_recipe
from tests.unit.test_cli import one_sentence


def recipe_file(root: Path, output: Path) -> Path:
    """Write a recipe whose test section is as the server's: questions, no annotations."""
    values = tiny_values("vqa", root, output)
    del values["data"]["test"][0]["annotations"]
    return write_recipe(output.parent / "vqa.yaml", values)


def withheld(root: Path, output: Path, *overrides: str) -> Recipe:
    return load_recipe(recipe_file(root, output), overrides)


def test_every_question_is_answered_with_a_word_of_the_vocabulary(world: Path, trained: Path, tmp_path: Path) -> None:
    recipe = withheld(world, tmp_path / "run")
    asked = asked_questions(recipe, "test")
    official = json.loads((world / "annotations" / "v2_OpenEnded_mscoco_test2014_questions.json").read_text())
    assert asked == [str(row["question_id"]) for row in official["questions"]]
    model = trained / "vqa" / "model"
    assert submit_answers(recipe, "test", tmp_path / "out.json", model) == len(asked)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [str(row["question_id"]) for row in rows] == asked
    answers = json.loads((model / "config.json").read_text())["answers"]
    assert {row["answer"] for row in rows} <= set(answers)


def test_the_answers_are_those_that_evaluation_scores(world: Path, trained: Path, tmp_path: Path) -> None:
    from soho.evaluation.vqa_score import score_answers

    model = trained / "vqa" / "model"
    recipe = tiny_recipe("vqa", world, tmp_path / "run")
    submit_answers(recipe, "validation", tmp_path / "out.json", model)
    rows = json.loads((tmp_path / "out.json").read_text())
    truth = json.loads((world / "annotations" / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    score = score_answers(
        {str(row["question_id"]): row["answer"] for row in rows},
        {str(row["question_id"]): [answer["answer"] for answer in row["answers"]] for row in truth},
    )
    assert evaluate(recipe, "validation", model)["accuracy"] == pytest.approx(score.result()["accuracy"])


def test_the_command_writes_and_checks(soho: Soho, world: Path, trained: Path, tmp_path: Path) -> None:
    recipe, out = recipe_file(world, tmp_path / "run"), tmp_path / "out.json"
    code, said, err = soho("submit", "vqa", recipe, "--model", trained / "vqa" / "model", "--out", out)
    assert code == 0, err
    assert f"{out}: " in said
    assert "every question of data.test once" in said
    code, said, err = soho("submit", "vqa", recipe, "--check", out)
    assert code == 0, err
    assert f"{out}: valid" in said
    rows = json.loads(out.read_text())
    out.write_text(json.dumps(rows[1:]))
    sentence = one_sentence(soho("submit", "vqa", recipe, "--check", out))
    assert sentence.endswith(f"1 of {len(rows)} questions has no answer: {rows[0]['question_id']}")
    assert "give either --out" in one_sentence(soho("submit", "vqa", recipe))
    assert "give either --out" in one_sentence(soho("submit", "vqa", recipe, "--check", out, "--out", out))
    assert "--split 'dev' is not known" in one_sentence(soho("submit", "vqa", recipe, "--check", out, "--split", "dev"))


def test_questions_that_are_left_out_are_told_before_anything_is_answered(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    model, out = trained / "vqa" / "model", tmp_path / "out.json"
    with pytest.raises(SohoError, match=r"questions of data\.test are left out, but the server wants all: "):
        submit_answers(withheld(world, tmp_path / "run", "data.test.0.limit=3"), "test", out, model)
    assert not out.exists()


def test_a_question_about_a_broken_picture_has_no_answer(world: Path, trained: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world, tmp_path / "world"))
    asked = json.loads((root / "annotations" / "v2_OpenEnded_mscoco_test2014_questions.json").read_text())["questions"]
    number = asked[0]["image_id"]
    next((root / "images").rglob(f"*{number:012d}.jpg")).write_bytes(b"\xff\xd8\xff no picture")
    recipe = withheld(root, tmp_path / "run")
    with pytest.raises(SohoError, match=rf"out\.json is not written: .* no answer: {asked[0]['question_id']}"):
        submit_answers(recipe, "test", tmp_path / "out.json", trained / "vqa" / "model")


def test_recipes_that_have_nothing_for_the_server(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SohoError, match="the recipe has task: retrieval; a file for the VQA server needs task: vqa"):
        asked_questions(tiny_recipe("retrieval", world, tmp_path / "a"), "test")
    with pytest.raises(SohoError, match=r"names no source under data\.test"):
        asked_questions(tiny_recipe("vqa", world, tmp_path / "b", "data.test=[]"), "test")
    values = tiny_values("vqa", world, tmp_path / "c")
    values["data"]["test"] = [{"format": "jsonl", "annotations": "q.jsonl"}]
    with pytest.raises(SohoError, match=r"data\.test has format jsonl, but the VQA server knows only VQA v2"):
        asked_questions(load_recipe(write_recipe(tmp_path / "c.yaml", values)), "test")
    values["data"]["test"] = [questions("test"), questions("test")]
    with pytest.raises(SohoError, match=r"ask some questions twice"):
        asked_questions(load_recipe(write_recipe(tmp_path / "d.yaml", values)), "test")


def test_the_published_questions_file(tmp_path: Path) -> None:
    path = shared_data("samples/vqa_v2/v2_OpenEnded_mscoco_val2014_questions.sample.json")
    values = tiny_values("vqa", tmp_path, tmp_path / "run")
    values["data"]["test"] = [{"format": "vqa2", "questions": str(path), "images": str(tmp_path)}]
    asked = asked_questions(load_recipe(write_recipe(tmp_path / "q.yaml", values)), "test")
    assert asked == [str(row["question_id"]) for row in json.loads(path.read_text())["questions"]]
