"""The command line: what it says, and that bad input is one sentence on stderr with exit code 1."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from soho.cli.base import shown
from soho.training.tracking import read_log
from tests.support import ROOT, Soho
from tests.tiny_recipes import tiny_values, write_recipe


def one_sentence(result: tuple[int, str, str]) -> str:
    """Return the sentence of a command that must have failed with nothing but a sentence."""
    code, out, err = result
    assert code == 1, err
    assert err.startswith("soho: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in out + err
    return err.removeprefix("soho: ").rstrip("\n")


@pytest.fixture
def recipe(world: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.yaml", tiny_values("pretraining", world, tmp_path / "run"))


# -- Help -----------------------------------------------------------------------------------------------------------


def test_help_reads_like_documentation(soho: Soho) -> None:
    code, out, _ = soho("--help")
    assert code == 0
    for command in ("pretrain", "finetune", "evaluate", "predict", "recipe", "data", "demo"):
        assert command in out
    assert "torchrun" in out
    assert "visual dictionary" in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("pretrain",), ("RECIPE", "KEY=VALUE", "MLM, MVM and ITM", "log.jsonl")),
        (("finetune",), ("RECIPE", "KEY=VALUE", "retrieval or question answering")),
        (("evaluate",), ("RECIPE", "--split", "train, validation or test", "--model")),
        (("recompute",), ("score matrix", "--folds", "--exact")),
        (("submit", "vqa"), ("RECIPE", "--split", "--model", "--out", "--check", "every question once")),
        (("predict",), ("model folder", "picture", "question", "--second", "--trust-remote-code")),
        (("data",), ("miniature", "check")),
        (("data", "miniature"), ("new folder", "--train", "--validation", "--test", "--seed")),
        (("data", "check"), ("RECIPE", "exit code 1")),
        (("demo",), ("--out", "--seed", "--serial")),
    ],
)
def test_every_command_explains_itself(soho: Soho, command: tuple[str, ...], words: tuple[str, ...]) -> None:
    code, out, _ = soho(*command, "--help")
    assert code == 0
    assert [word for word in words if word not in out] == []


def test_the_recipe_is_explained_key_by_key(soho: Soho) -> None:
    code, out, _ = soho("recipe")
    assert code == 0
    for key in ("vocabulary_size", "freeze_backbone_epochs", "captions_per_image_per_epoch", "clip_norm", "on_missing"):
        assert key in out


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "soho", "pretrain", str(tmp_path / "gone.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == f"soho: there is no recipe {tmp_path / 'gone.yaml'}\n"
    assert done.stdout == ""


# -- One sentence ---------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_the_nearest(soho: Soho, recipe: Path, tmp_path: Path) -> None:
    sentence = one_sentence(soho("pretrain", recipe, "training.epoch=3"))
    assert sentence.startswith("unknown key 'training.epoch' in the override 'training.epoch=3'")
    assert sentence.endswith("did you mean 'training.epochs'?")
    recipe.write_text(recipe.read_text().replace("batch_size: 8", "batchsize: 8", 1))
    sentence = one_sentence(soho("pretrain", recipe))
    assert sentence == f"unknown key 'training.batchsize' in {recipe}; did you mean 'training.batch_size'?"
    sentence = one_sentence(soho("pretrain", recipe, "model.config.dictionary_sise=8", "training.batchsize=8"))
    assert "unknown key" in sentence


def test_an_unknown_model_field_names_the_nearest(soho: Soho, recipe: Path) -> None:
    sentence = one_sentence(soho("pretrain", recipe, "model.config.hiden_size=8"))
    assert sentence == "unknown model field 'model.config.hiden_size'; did you mean 'model.config.hidden_size'?"


@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate"])
def test_a_missing_recipe(soho: Soho, tmp_path: Path, command: str) -> None:
    assert one_sentence(soho(command, tmp_path / "gone.yaml")) == f"there is no recipe {tmp_path / 'gone.yaml'}"


def test_broken_yaml(soho: Soho, recipe: Path) -> None:
    recipe.write_text("task: pretraining\noutput: [a, b\ntraining:\n")
    sentence = one_sentence(soho("pretrain", recipe))
    assert sentence.startswith(f"{recipe}, line ")
    assert "not valid YAML" in sentence
    recipe.write_text("just words\n")
    assert "must hold sections (key: value)" in one_sentence(soho("pretrain", recipe))


def test_wrong_values(soho: Soho, recipe: Path) -> None:
    sentence = one_sentence(soho("pretrain", recipe, "training.epochs=many"))
    assert "'training.epochs'" in sentence
    assert "'many'" in sentence
    assert "must have the form key=value" in one_sentence(soho("pretrain", recipe, "training.epochs"))
    sentence = one_sentence(soho("pretrain", recipe, "task=vqaa"))
    assert "'vqaa'" in sentence
    assert sentence.endswith("did you mean 'vqa'?")


def test_the_wrong_command_for_the_task(soho: Soho, recipe: Path) -> None:
    assert one_sentence(soho("finetune", recipe)) == f"{recipe} has task: pretraining; run it with `soho pretrain`"
    sentence = one_sentence(soho("pretrain", recipe, "task=retrieval"))
    assert sentence == f"{recipe} has task: retrieval; run it with `soho finetune`"


def test_missing_files(soho: Soho, recipe: Path, world: Path, tmp_path: Path) -> None:
    sentence = one_sentence(soho("pretrain", recipe, "data.train.0.annotations=gone.json"))
    assert "gone.json" in sentence
    assert "does not exist" in sentence
    sentence = one_sentence(soho("pretrain", recipe, f"data.train.0.images={tmp_path / 'nowhere'}"))
    assert str(tmp_path / "nowhere") in sentence
    assert "gone" in one_sentence(soho("pretrain", recipe, "model.start=gone"))
    wrong = f"data.train.0.annotations={world}/annotations/region_descriptions.json"
    assert "region_descriptions.json" in one_sentence(soho("pretrain", recipe, wrong))


def test_a_start_that_is_not_trained_yet(soho: Soho, recipe: Path) -> None:
    sentence = one_sentence(soho("finetune", recipe, "task=retrieval", "model.start=runs/not/there/model"))
    assert sentence.startswith("model.start='runs/not/there/model' is not a folder")


def test_a_missing_picture_is_named(soho: Soho, recipe: Path, world: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(world / "images" / "train2014", tmp_path / "images"))
    gone = sorted(images.iterdir())[0]
    gone.unlink()
    code, _, err = soho("pretrain", recipe, f"data.train.0.images={images}")
    assert code == 1
    assert gone.name in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("value", "text"), [(214354.0, "214,354"), (25000.0, "25,000"), (0.73254, "0.7325"), (5.0, "5"), (1234.5, "1234")]
)
def test_counts_are_shown_in_full(value: float, text: str) -> None:
    assert shown(value) == text


def test_an_unknown_split(soho: Soho, recipe: Path) -> None:
    sentence = one_sentence(soho("evaluate", recipe, "--split", "val"))
    assert sentence == "--split 'val' is not known; expected train, validation or test"


def test_evaluating_what_is_not_trained(soho: Soho, recipe: Path, tmp_path: Path) -> None:
    assert one_sentence(soho("evaluate", recipe)).startswith(f"{tmp_path / 'run' / 'model'} does not exist yet")
    sentence = one_sentence(soho("evaluate", recipe, "--model", tmp_path / "gone"))
    assert sentence == f"{tmp_path / 'gone'} is not a folder; expected one that holds a trained model"


def test_predicting_with_something_else(soho: Soho, trained: Path, tmp_path: Path) -> None:
    model = trained / "retrieval" / "model"
    sentence = one_sentence(soho("predict", tmp_path / "gone", tmp_path / "a.jpg", "a ball"))
    assert sentence.startswith(f"{tmp_path / 'gone'} is not a folder")
    assert "holds no model configuration" in one_sentence(soho("predict", tmp_path, tmp_path / "a.jpg", "a ball"))
    sentence = one_sentence(soho("predict", model, tmp_path / "a.jpg", "a ball"))
    assert sentence == f"{tmp_path / 'a.jpg'} is not a file; expected a picture"
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert str(tmp_path / "a.jpg") in one_sentence(soho("predict", model, tmp_path / "a.jpg", "a ball"))
    sentence = one_sentence(soho("predict", trained / "nlvr2" / "model", tmp_path / "a.jpg", "two balls"))
    assert sentence.endswith("give the right picture too (--second)")


def test_predicting_with_two_pictures(soho: Soho, trained: Path, world: Path) -> None:
    left, right = sorted((world / "images" / "val2014").iterdir())[:2]
    code, out, err = soho("predict", trained / "nlvr2" / "model", left, "two balls", "--second", right)
    assert code == 0, err
    lines = [line.split("  ") for line in out.strip().splitlines()]
    assert {text for _, text in lines} == {"true", "false"}
    assert sum(float(share) for share, _ in lines) == pytest.approx(1, abs=2e-3)


def test_a_folder_that_is_not_ours_is_not_overwritten(soho: Soho, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("mine")
    sentence = one_sentence(soho("data", "miniature", tmp_path / "photos", "--train", "2"))
    assert str(tmp_path / "photos") in sentence
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "mine"


# -- The whole road -------------------------------------------------------------------------------------------------


def test_train_evaluate_predict(soho: Soho, recipe: Path, world: Path, tmp_path: Path) -> None:
    steps = ("training.max_steps=2", "data.train.0.limit=16")
    code, out, err = soho("pretrain", recipe, *steps)
    assert code == 0, err
    assert f"{tmp_path / 'run' / 'model'}" in out.replace("\n", "")
    assert len(read_log(tmp_path / "run")) == 2
    code, out, err = soho("evaluate", recipe, "data.validation.0.limit=4")
    assert code == 0, err
    assert "mvm_majority" in out
    picture = sorted((world / "images" / "val2014").iterdir())[0]
    code, out, err = soho("predict", tmp_path / "run" / "model", picture, "a red ball")
    assert code == 0, err
    probability, text = out.strip().split("  ")
    assert 0 <= float(probability) <= 1
    assert text == "a red ball"


def test_checking_data(soho: Soho, recipe: Path, tmp_path: Path, world: Path) -> None:
    code, out, _ = soho("data", "check", recipe)
    assert code == 0
    assert "48" in out
    same = [f"data.validation.0.{key}={value}" for key, value in (("split", "train"), ("limit", 3))]
    code, out, err = soho("data", "check", recipe, *same)
    assert code == 1
    assert "ERROR" in out
    assert "Traceback" not in err


def test_drawing_a_world(soho: Soho, tmp_path: Path) -> None:
    code, out, err = soho(
        "data", "miniature", tmp_path / "w", "--train", 4, "--validation", 2, "--test", 4, "--seed", 3
    )
    assert code == 0, err
    assert "embedded world (seed 3)" in out
    assert (tmp_path / "w" / "world.json").is_file()
