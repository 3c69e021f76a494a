"""The model card: what a run writes, what `soho evaluate` adds, and whose card it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from soho.errors import SohoError
from soho.runs import evaluate, train
from soho.sharing.card import is_ours, refresh_card, write_card
from soho.sharing.card_figures import tables
from soho.sharing.facts import file_of, portable_recipe, read_facts, record_measurement, record_training, weights_hash
from tests.support import Soho
from tests.tiny_recipes import tiny_recipe


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of a question-answering run's model folder, which a test may change."""
    shutil.copytree(trained / "vqa", tmp_path / "run")
    return tmp_path / "run" / "model"


def recipe_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder.parent / "recipe.yaml").read_text())
    return found


def test_a_run_leaves_a_card_of_facts(trained: Path, world: Path) -> None:
    text = (trained / "vqa" / "model" / "README.md").read_text(encoding="utf-8")
    assert is_ours(text)
    card = ModelCard(text)
    assert card.data.license == "unknown"
    assert card.data.library_name == "soho-vlp"
    assert card.data.pipeline_tag == "visual-question-answering"
    assert card.data.tags == ["soho", "vision-language", "visual-question-answering"]
    assert card.data.eval_results is None
    for section in ("What it does", "How to use it", "Data", "Figures", "Training", "Limits", "Licence"):
        assert f"\n## {section}\n" in text
    assert "`v2_OpenEnded_mscoco_train2014_questions.json` in the form `vqa2`" in text
    questions = json.loads(
        (world / "annotations" / "v2_OpenEnded_mscoco_train2014_questions.json").read_text(encoding="utf-8")
    )["questions"]
    pictures = len({question["image_id"] for question in questions})
    assert f"{len(questions):,} examples: {pictures} pictures, {len(questions):,} texts." in text
    assert "Nothing was measured on these weights that this folder knows of" in text
    assert "2 optimizer steps" in text
    assert "The weights: not stated by whoever trained them. The code, `soho-vlp`: Apache-2.0." in text
    assert 'model.answer("kitchen.jpg"' in text
    before = text.split("Before that, its start was trained (3 optimizer steps of vision-language pre-training) on:")[1]
    assert before.startswith(
        "\n\n- `dataset_coco.json` in the form `karpathy`, split train\n\n48 examples: 48 pictures, "
    )
    inside = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert inside["training"]["max_steps"] == 2
    assert inside["data"]["root"] == "{root}"
    assert str(world) not in text, "a card tells no paths of the machine"
    facts = (trained / "vqa" / "model" / "provenance.json").read_text(encoding="utf-8")
    assert str(world) not in facts
    assert str(trained) not in facts


@pytest.mark.parametrize("task", ["pretraining", "retrieval", "nlvr2", "snli_ve"])
def test_every_task_has_a_card(trained: Path, task: str) -> None:
    text = (trained / task / "model" / "README.md").read_text(encoding="utf-8")
    assert is_ours(text)
    verb = {"nlvr2": "compare", "snli_ve": "entails"}.get(task, "match")
    assert f"model.{verb}(" in text
    assert ModelCard(text).data.pipeline_tag is None  # the hub has no name for these


def test_evaluating_enters_figures_beside_baselines(trained: Path, world: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "snli_ve", tmp_path / "run")
    folder = tmp_path / "run" / "model"
    figures = evaluate(tiny_recipe("snli_ve", world, tmp_path / "run", "data.shorter_edge=96"), "test")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "On the test split (snli_ve_test.jsonl), measured 2" in text
    assert f"| accuracy | {figures['accuracy']:.4g} |" in text
    assert "No baseline was measured beside it." in text
    assert "with other settings than the recipe below: `data.shorter_edge=96`." in text
    (result,) = ModelCard(text).data.eval_results or []
    assert (result.metric_type, result.metric_value) == ("accuracy", round(figures["accuracy"], 4))
    assert (result.dataset_type, result.dataset_split) == ("snli_ve", "test")
    # Another model of the same recipe is measured: its figures are not this folder's.
    evaluate(tiny_recipe("snli_ve", world, tmp_path / "run"), "validation", trained / "snli_ve" / "model")
    assert set(read_facts(folder)[0]["measured"]) == {"test"}
    # The same run again finds itself finished and keeps its figures.
    start = f"model.start={trained / 'pretraining' / 'model'}"
    train(tiny_recipe("snli_ve", world, tmp_path / "run", start, "training.max_steps=2"))
    assert set(read_facts(folder)[0]["measured"]) == {"test"}
    again = (folder / "README.md").read_text(encoding="utf-8")
    assert again.split("## Training")[0] == text.split("## Training")[0]


def test_figures_stand_beside_their_baselines() -> None:
    figures = {
        "accuracy": 0.50113,
        "answer_type/other": 0.25,
        "majority": 0.1134,
        "blind/accuracy": 0.236,
        "blind/answer_type/other": 0.125,
    }
    main, details = tables(figures)
    assert main == (
        "| | model | most frequent | text only |\n|---|---|---|---|\n| accuracy | 0.5011 | 0.1134 | 0.236 |"
    )
    assert "| | model | text only |\n|---|---|---|\n| answer_type/other | 0.25 | 0.125 |" in details
    retrieval = tables({"tr_r1": 0.318, "chance/tr_r1": 0.002, "images": 5000.0})
    assert retrieval == [
        "| | model | chance |\n|---|---|---|\n| text retrieval R@1 | 0.318 | 0.002 |\n| images | 5,000 |  |"
    ]


def test_figures_of_other_weights_do_not_count(folder: Path, trained: Path) -> None:
    assert record_measurement(folder, "test", {"accuracy": 0.75}, recipe_of(folder))
    assert "0.75" in refresh_and_read(folder)
    shutil.copy(trained / "snli_ve" / "model" / "model.safetensors", folder / "model.safetensors")
    text = refresh_and_read(folder)
    assert "0.75" not in text
    assert "Unknown: the folder says nothing of how these weights were made." in text


def refresh_and_read(folder: Path) -> str:
    assert refresh_card(folder) == f"model card: {folder / 'README.md'}"
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_changed_by_hand_stays(folder: Path, soho: Soho) -> None:
    card = folder / "README.md"
    mine = card.read_text(encoding="utf-8").replace("## Limits", "## Limits, by me")
    for text in (mine, "# My own model\n"):
        card.write_text(text, encoding="utf-8")
        assert not is_ours(text)
        assert "was changed by hand and stays as it is" in refresh_card(folder)
        assert card.read_text(encoding="utf-8") == text
        code, out, err = soho("card", folder)
        assert (code, out) == (1, "")
        assert "was written or changed by somebody else and stays as it is (--overwrite replaces it)" in err
        assert card.read_text(encoding="utf-8") == text
    card.write_bytes("# Modèle à moi\n".encode("latin-1"))
    assert "was changed by hand and stays as it is" in refresh_card(folder)
    code, out, _ = soho("card", folder, "--overwrite", "--license", "cc-by-4.0")
    assert (code, out) == (0, f"model card: {card}\n")
    assert "The weights: cc-by-4.0." in card.read_text(encoding="utf-8")
    # What was said of the licence is kept when the card is written anew.
    text = refresh_and_read(folder)
    assert ModelCard(text).data.license == "cc-by-4.0"
    with pytest.raises(SohoError, match="license='My Licence' is no identifier of the hub"):
        write_card(folder, license="My Licence")


def test_what_is_unknown_is_said_to_be_unknown(folder: Path) -> None:
    (folder / "provenance.json").unlink()
    text = refresh_and_read(folder)
    assert "Unknown: the folder says nothing of how these weights were made." in text
    assert "It answers a question about a picture" in text  # this config.json tells
    assert not record_measurement(folder, "test", {"accuracy": 0.75}, recipe_of(folder))


def test_damaged_facts_do_not_fail_a_finished_training(folder: Path) -> None:
    (folder / "provenance.json").write_text("{")
    record_training(folder, {"examples": 3, "pictures": 2, "texts": 3, "broken": 1})
    text = refresh_and_read(folder)
    assert "3 examples: 2 pictures, 3 texts.\n1 pictures could not be decoded and were skipped." in text


def test_folders_that_cannot_have_a_card(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SohoError, match="gone is not a folder"):
        write_card(tmp_path / "gone")
    with pytest.raises(SohoError, match=r"holds no config\.json; expected a folder that a SOHO run wrote"):
        write_card(tmp_path)
    (folder / "provenance.json").write_text('{"format": 99, "runs": []}')
    with pytest.raises(SohoError, match=r"provenance\.json has format 99; this version reads 1"):
        write_card(folder)
    (folder / "provenance.json").write_text("{")
    with pytest.raises(SohoError, match=r"provenance\.json cannot be read"):
        write_card(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(SohoError, match="holds no weights"):
        weights_hash(folder)


def changed_recipe(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """Change the recipe beside a model folder and write the card anew, as a run with it would."""
    recipe = recipe_of(folder)
    change(recipe)
    (folder.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    record_training(folder, {"examples": 3})
    return refresh_and_read(folder)


def test_shards_are_named_by_the_end_of_their_places(folder: Path) -> None:
    places = {"train": ["/disk/shards/train", "https://host.org/web/train/{000000..000127}.tar"], "test": ["s/test"]}
    sections = {name: [{"format": "shards", "shards": shards}] for name, shards in places.items()}
    text = changed_recipe(folder, lambda recipe: recipe["data"].update(root="/data", **sections))
    assert "- `shards/train, train/{000000..000127}.tar` in the form `shards`\n" in text
    assert record_measurement(folder, "test", {"accuracy": 0.75}, recipe_of(folder))
    text = refresh_and_read(folder)
    assert "On the test split (s/test), measured 2" in text
    (result,) = ModelCard(text).data.eval_results or []
    assert (result.dataset_type, result.dataset_name) == ("shards", "s/test")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"annotations": "{root}/a/b.json"}, "b.json"),
        ({"annotations": "a.json", "questions": "C:\\x\\q.json"}, "q.json"),
        ({"shards": ["{root}/train"]}, "train"),
        ({"shards": ["…/web/train"]}, "web/train"),
        ({"shards": "../shards/train/", "annotations": None}, "shards/train"),
        ({"shards": ["a/train", "b/train", "a/train"]}, "a/train, b/train"),
        ({"shards": ["https://host.org/train"]}, "host.org/train"),
        ({}, "?"),
    ],
)
def test_the_file_of_a_source(source: dict[str, Any], name: str) -> None:
    assert file_of(source) == name


def test_a_folder_of_the_machine_is_no_start_from_the_hub(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bert-base").mkdir()
    starts = {"start": None, "text": f"{tmp_path}/bert-base", "backbone": "microsoft/resnet-18"}
    text = changed_recipe(
        folder, lambda recipe: recipe.update(model=starts, data={**recipe["data"], "root": str(tmp_path)})
    )
    assert ModelCard(text).data.base_model == ["microsoft/resnet-18"]
    assert "text `{root}/bert-base`" in text


@pytest.mark.parametrize("name", ["~/bert-base", "./bert-base", "{root}/bert-base", "…/bert-base", "/bert-base"])
def test_what_is_written_like_a_path_is_no_start_from_the_hub(folder: Path, name: str) -> None:
    text = changed_recipe(folder, lambda recipe: recipe["model"].update(start=None, text=name, backbone=None))
    assert ModelCard(text).data.base_model is None


def test_of_records_of_somebodys_own_only_the_number_is_told(folder: Path) -> None:
    assert "\n3 examples.\n" in changed_recipe(folder, lambda recipe: None)
    record_training(folder, {})
    assert "\nHow many examples is unknown.\n" in refresh_and_read(folder)


def test_a_recipe_without_paths_of_the_machine() -> None:
    recipe = {
        "output": "/home/me/runs/vqa",
        "model": {"start": "runs/demo/pretrain/model", "text": "google-bert/bert-base-uncased"},
        "data": {
            "root": "/data/coco/",
            "train": [
                {"annotations": "/data/coco/annotations/a.json", "images": ["/elsewhere/images", "C:\\x\\y.zip"]}
            ],
            "train_size": 3,
        },
    }
    assert portable_recipe(recipe) == {
        "output": "…/vqa",
        "model": {"start": "runs/demo/pretrain/model", "text": "google-bert/bert-base-uncased"},
        "data": {
            "root": "{root}",
            "train": [{"annotations": "{root}/annotations/a.json", "images": ["…/images", "…/y.zip"]}],
            "train_size": 3,
        },
    }
    places = ["/data/coco/train", "/elsewhere/flickr/train/{00..09}.tar", "~/shards/train", "D:\\s\\train", "/train"]
    found = portable_recipe({"data": {"root": "/data", "train": [{"shards": [*places, "https://host.org/a/train"]}]}})
    assert found["data"]["train"][0]["shards"] == [
        "{root}/coco/train",
        "…/train/{00..09}.tar",
        "…/shards/train",
        "…/s/train",
        "…/train",
        "https://host.org/a/train",
    ]
    assert portable_recipe({"data": {"root": None, "train": ["a.json"]}})["data"]["train"] == ["a.json"]
