"""The paper's fine-tuning recipes: its settings to the letter, and one step of each on a miniature of its data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from soho.models import SohoConfig, SohoForPreTraining
from soho.models.initialization import load_tokenizer
from soho.processing import SohoImageProcessor, SohoProcessor
from soho.runs import evaluate
from soho.training.recipe import load_recipe
from tests.recipes.test_recipes import SMALL, assert_trains, limits, official_layout, recipe, write_bert
from tests.support import ROOT

FOLDER = ROOT / "recipes" / "finetune"
SIZES = ("r101_12l", "r18_3l")
SGD = {"name": "sgd", "lr": 1e-2, "weight_decay": 5e-4, "momentum": 0.9}
ADAMW = {"name": "adamw", "lr": 1e-4, "weight_decay": 1e-2, "betas": [0.9, 0.999]}
# Sections 4.2.1 to 4.2.4: examples of an optimizer step, epochs, epochs at which the rate drops and by what, and the
# optimizer of the CNN; that of everything else is always AdamW.
PAPER: dict[str, tuple[int, int, list[float], float, dict[str, Any]]] = {
    "retrieval_coco": (24, 20, [3, 5, 9, 13], 0.5, ADAMW),
    "retrieval_flickr30k": (24, 20, [3, 5, 9, 13], 0.5, ADAMW),
    "vqa": (256, 18, [12, 16], 0.1, SGD),
    "nlvr2": (128, 18, [12, 16], 0.1, SGD),
    "snli_ve": (128, 6, [4], 0.1, ADAMW),
}
# The annotation files and splits that the paper trains and measures on (Table 1).
FILES = {
    "retrieval_coco": (["dataset_coco.json train+restval"], ["dataset_coco.json test"]),
    "retrieval_flickr30k": (["dataset_flickr30k.json train"], ["dataset_flickr30k.json test"]),
    "vqa": (
        ["v2_OpenEnded_mscoco_train2014_questions.json", "v2_OpenEnded_mscoco_val2014_questions.json"],
        ["v2_OpenEnded_mscoco_test2015_questions.json"],
    ),
    "nlvr2": (["train.json"], ["test1.json"]),
    "snli_ve": (["snli_ve_train.jsonl"], ["snli_ve_test.jsonl"]),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAPER)
def test_the_settings_are_the_papers(name: str, size: str) -> None:
    path = FOLDER / f"{name}_{size}.yaml"
    settings = load_recipe(path, ["data.root=/data"])
    step, epochs, milestones, factor, backbone = PAPER[name]
    training = settings.training
    processes = re.search(r"--nproc_per_node (\d+) -m soho finetune", path.read_text(encoding="utf-8"))
    count = int(processes.group(1)) if processes else 1
    assert count * training.batch_size * training.accumulation == step
    assert (training.epochs, training.schedule.milestones, training.schedule.factor) == (epochs, milestones, factor)
    assert (training.schedule.kind, training.schedule.warmup_steps, training.max_steps) == ("step", 0, None)
    assert backbone.items() <= training.backbone_optimizer.model_dump().items()
    assert ADAMW.items() <= training.optimizer.model_dump().items()
    assert training.freeze_backbone_epochs == 0
    assert (settings.data.shorter_edge, settings.data.longer_edge) == (600, 1000)
    assert settings.model.start == f"runs/pretrain/soho_{size}/model"
    assert settings.model.config == {}  # depth and width are the start's
    if name == "vqa":
        assert settings.data.answer_minimum_count == 9
    for sources, files in zip((settings.data.train, settings.data.test), FILES[name], strict=True):
        found = [f"{source.file.name} {source.split}" if source.split else source.file.name for source in sources]
        assert found == files


@pytest.mark.parametrize("name", PAPER)
def test_both_sizes_of_a_task_differ_in_the_model_alone(name: str) -> None:
    large, small = (load_recipe(FOLDER / f"{name}_{size}.yaml", ["data.root=/data"]).model_dump() for size in SIZES)
    outputs = tuple(str(values.pop("output")) for values in (large, small))
    assert outputs == tuple(f"runs/finetune/{name}_{size}" for size in SIZES)
    assert (large["model"].pop("start"), small["model"].pop("start")) == tuple(
        f"runs/pretrain/soho_{size}/model" for size in SIZES
    )
    assert large["training"].pop("gradient_checkpointing")
    assert not small["training"].pop("gradient_checkpointing")
    assert large == small


# -- One step of each on the embedded world -------------------------------------------------------------------------


def miniature_of(world: Path, root: Path) -> Path:
    """Lay out the world as the headers of recipes/finetune say the files must lie."""
    official_layout(world, root)
    annotations = world / "annotations"
    (root / "coco" / "test2015").mkdir()
    (root / "vqa").mkdir()
    for year in ("train2014", "val2014"):
        for file in (f"v2_OpenEnded_mscoco_{year}_questions.json", f"v2_mscoco_{year}_annotations.json"):
            (root / "vqa" / file).symlink_to(annotations / file)
    questions = json.loads((annotations / "v2_OpenEnded_mscoco_test2014_questions.json").read_text())
    questions["data_subtype"] = "test2015"
    (root / "vqa" / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps(questions))
    for row in questions["questions"]:
        name = f"COCO_test2015_{row['image_id']:012d}.jpg"
        if not (root / "coco" / "test2015" / name).exists():
            (root / "coco" / "test2015" / name).symlink_to(
                world / "images" / "val2014" / name.replace("test2015", "val2014")
            )
    _flickr30k(world, root)
    data, images = root / "nlvr2" / "data", root / "nlvr2" / "images"
    for part in ("balanced", "unbalanced"):
        (data / part).mkdir(parents=True)
    images.mkdir()
    for split in ("train", "dev", "test1"):
        lines = (annotations / f"nlvr2_{split}.json").read_text().splitlines(keepends=True)
        (data / f"{split}.json").write_text("".join(lines))
        (data / "balanced" / f"balanced_{split}.json").write_text("".join(lines[:4]))
        (data / "unbalanced" / f"unbalanced_{split}.json").write_text("".join(lines[4:]))
        (images / split).symlink_to(world / "images" / "nlvr2")
    (root / "snli_ve").mkdir()
    for split in ("train", "dev", "test"):
        (root / "snli_ve" / f"snli_ve_{split}.jsonl").symlink_to(annotations / f"snli_ve_{split}.jsonl")
    return root


def _flickr30k(world: Path, root: Path) -> None:
    """Write captions for the world's Flickr pictures in Karpathy's form."""
    (root / "flickr30k").mkdir()
    (root / "flickr30k" / "flickr30k-images").symlink_to(world / "images" / "flickr30k-images")
    images: list[dict[str, Any]] = []
    for number, path in enumerate(sorted((world / "images" / "flickr30k-images").iterdir())):
        texts = [f"picture {number}", f"the {number}th"]
        sentences = [{"raw": text, "tokens": text.split(), "imgid": number, "sentid": 2 * number} for text in texts]
        sentences[1]["sentid"] = 2 * number + 1
        split = ("train", "val", "test")[number % 3]
        images.append({"filename": path.name, "imgid": number, "split": split, "sentences": sentences})
    content = {"images": images, "dataset": "flickr30k"}
    (root / "flickr30k" / "dataset_flickr30k.json").write_text(json.dumps(content))


@pytest.fixture(scope="module", params=SIZES)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A size and a folder of a pre-training model of it with random weights, removed at once."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "r101_12l":
        config = SohoConfig()
    else:
        backbone = {"model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
        config = SohoConfig(num_hidden_layers=3, visual_backbone=backbone | {"layer_type": "basic"})
    torch.manual_seed(0)
    SohoForPreTraining(config).save_pretrained(folder / "model")
    tokenizer = load_tokenizer(str(write_bert(folder / "bert", layers=1)))
    SohoProcessor(image_processor=SohoImageProcessor(), tokenizer=tokenizer).save_pretrained(folder / "model")
    yield request.param, folder / "model"
    shutil.rmtree(folder)


@pytest.mark.recipe
@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_one_step(
    name: str, start: tuple[str, Path], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, model = start
    monkeypatch.setattr("os.fsync", lambda _: None)  # gigabytes that are thrown away need not reach the disk
    place = (f"data.root={miniature_of(world, tmp_path / 'data')}", f"output={tmp_path / 'run'}", *SMALL)
    few = () if name == "vqa" else (*limits("train", 2), *limits("test", 5), "evaluation.max_images=5")
    settings = recipe(f"finetune/{name}_{size}.yaml", *place, *few, f"model.start={model}", batch=2, steps=1)
    folder = assert_trains(settings)
    config = SohoConfig.from_pretrained(folder)
    depths = {"r101_12l": ([3, 4, 23, 3], 12), "r18_3l": ([2, 2, 2, 2], 3)}[size]
    assert (config.visual_backbone["depths"], config.num_hidden_layers) == depths
    assert (config.hidden_size, config.dictionary_size, config.visual_input) == (768, 2048, "features")
    if name == "vqa":  # the answers of its test set are withheld
        settings = recipe(f"finetune/{name}_{size}.yaml", *place, *limits("train", 4), f"model.start={model}")
        assert 0 <= evaluate(settings, "train")["accuracy"] <= 1
    else:
        figures = evaluate(settings, "test")
        wanted = {"nlvr2": {"accuracy", "consistency", "balanced/accuracy"}, "snli_ve": {"accuracy"}}
        wanted["retrieval_coco"] = {"tr_r1", "ir_r10", "1_images/tr_r1", "1_images/ir_r10"}  # five folds of one
        assert wanted.get(name, {"tr_r1", "ir_r10"}) <= set(figures)
    shutil.rmtree(tmp_path / "run")  # gigabytes
