"""Model folder -> ONNX folder -> probabilities without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import soho.export.folder as export_folder
from soho.errors import SohoError
from soho.export import export_onnx
from soho.export.graph import OneTextAPair, graph_of
from soho.models import SohoPreTrainedModel
from soho.pipelines import SohoPipeline
from soho.processing import image_processing_soho
from tests.support import ROOT
from tests.unit.export.folders import TEXT_LENGTH, save_model
from tests.unit.models.tiny import change_weights

pytestmark = pytest.mark.slow  # torch takes ten seconds to trace even a small model

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")

Folders = Callable[[str], tuple[Path, Path]]
TEXTS = ["a red ball", "the dogs run on the beach on the red beach", "dog"]  # of 5, 8 (cut) and 3 tokens
# Fails on any attempt to load what an exported model must not need.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "soho"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Return (model folder, exported folder) of a kind; exported once, with 8 bits."""
    base = tmp_path_factory.mktemp("exported")

    def folders(kind: str) -> tuple[Path, Path]:
        source, out = base / kind / "model", base / kind / "onnx"
        if not out.exists():
            export_onnx(save_model(kind, source), out, int8=True, say=lambda _: None)
        return source, out

    return folders


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A landscape, a portrait that only its EXIF orientation makes upright, and a small grey picture."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / name for name in ("wide.png", "turned.jpg", "grey.png")]
    Image.fromarray(draw.integers(0, 256, (150, 210, 3), dtype=np.uint8)).save(paths[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw.integers(0, 256, (120, 260, 3), dtype=np.uint8)).save(paths[1], exif=exif, quality=95)
    Image.fromarray(draw.integers(0, 256, (40, 40), dtype=np.uint8)).save(paths[2])
    return paths


def example(folder: Path, *arguments: str | Path) -> list[tuple[str, dict[str, float]]]:
    """Run the example in a process that cannot import torch; returns each text with its printed labels."""
    blocker = folder.parent / "blocker"
    blocker.mkdir(exist_ok=True)
    (blocker / "sitecustomize.py").write_text(BLOCKER)
    environment = {**os.environ, "PYTHONPATH": str(blocker)}
    probe = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "torch is blocked" in probe.stderr
    command = [sys.executable, ROOT / "examples" / "onnx_predict.py", folder, *arguments]
    run = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    said: list[tuple[str, dict[str, float]]] = []
    for line in run.stdout.splitlines():
        if line.startswith("  "):
            share, label = line.split(maxsplit=1)
            said[-1][1][label] = float(share)
        else:
            said.append((line, {}))
    return said


@pytest.mark.parametrize("kind", ["match", "codes", "vqa", "nlvr2", "snli_ve", "released"])
def test_onnxruntime_agrees_with_torch(kind: str, exported: Folders) -> None:
    _, out = exported(kind)
    about = json.loads((out / "soho_onnx.json").read_text())
    found = about["largest_difference"]["model.onnx"]
    assert found["cases"] == 6
    assert 0 < max(found["logits"], found["probabilities"]) < 1e-4
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    assert {one.name: one.shape for one in session.get_inputs()} == {
        name: entry["shape"] for name, entry in about["inputs"].items()
    }
    types = {"float32": "tensor(float)", "bool": "tensor(bool)", "int64": "tensor(int64)"}
    assert {one.name: one.type for one in session.get_inputs()} == {
        name: types[entry["type"]] for name, entry in about["inputs"].items()
    }
    assert {one.name: one.shape for one in session.get_outputs()} == {
        name: entry["shape"] for name, entry in about["outputs"].items()
    }


def test_what_the_folder_says_of_itself(exported: Folders) -> None:
    _, out = exported("vqa")
    names = {"model.onnx", "model.int8.onnx", "tokenizer.json", "preprocessing.json", "soho_onnx.json"}
    assert {path.name for path in out.iterdir()} == names
    about = json.loads((out / "soho_onnx.json").read_text(encoding="utf-8"))
    assert about["task"] == "vqa"
    assert about["labels"] == ["yes", "no", "zwölf"]
    assert about["probabilities_are"] == "sigmoid"
    assert about["pictures"] == 1
    assert about["inputs"]["pixel_values"]["shape"] == ["pictures", 3, "64*rows", "64*columns"]
    assert about["bytes"] == {name: (out / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")}
    settings = json.loads((out / "preprocessing.json").read_text())
    assert settings == {
        "do_resize": True,
        "shorter_edge": 100,
        "longer_edge": 150,
        "size_divisor": 64,
        "smallest_padded_edge": 64,
        "resample": 2,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "text_length": TEXT_LENGTH,
    }
    labels = {kind: json.loads((exported(kind)[1] / "soho_onnx.json").read_text()) for kind in ("match", "nlvr2")}
    assert labels["match"]["labels"] == ["no match", "match"]
    assert labels["nlvr2"]["labels"] == ["false", "true"]
    assert labels["nlvr2"]["pictures"] == 2


def test_the_graph_tells_nothing_of_this_machine(exported: Folders) -> None:
    content = (exported("nlvr2")[1] / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert b".py" not in content


def test_products_with_weights_are_in_8_bits(exported: Folders) -> None:
    # Six products a layer (query, key, value, output, two of the feed-forward block), two layers, two in the head.
    for kind, passes in (("vqa", 1), ("nlvr2", 2)):
        _, out = exported(kind)
        nodes = onnx.load(str(out / "model.int8.onnx")).graph.node
        assert sum(node.op_type == "MatMulInteger" for node in nodes) == passes * 12 + 2
        about = json.loads((out / "soho_onnx.json").read_text())["largest_difference"]
        assert 1e-6 < about["model.int8.onnx"]["probabilities"] < 0.1
        dense = {
            tuple(one.dims) for one in onnx.load(str(out / "model.int8.onnx")).graph.initializer if one.data_type == 3
        }
        assert {(16, 16), (16, 32), (32, 16)} <= dense


@pytest.fixture
def pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package resize with Pillow as the example does; torch's pixels differ by one level of 255 at most.

    `test_resizing_is_that_of_pillow` holds that; the random models here magnify it.
    """

    def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))

    monkeypatch.setattr(image_processing_soho, "_bilinear", resize)


@pytest.mark.usefixtures("pillow_resizes")
@pytest.mark.parametrize("kind", ["match", "released"])
def test_the_example_matches_without_torch(kind: str, exported: Folders, pictures: list[Path]) -> None:
    source, out = exported(kind)
    pipeline = SohoPipeline.from_pretrained(source)
    shares = []
    for picture in pictures:
        said = example(out, picture, *TEXTS)
        assert [text for text, _ in said] == TEXTS
        for (_, found), expected in zip(said, pipeline.match(picture, TEXTS)):
            assert found["match"] == pytest.approx(expected.probability, abs=1e-4)
            assert found["match"] + found["no match"] == pytest.approx(1, abs=1e-5)
            shares.append(found["match"])
    assert len({round(share, 3) for share in shares}) > 5  # the model does look


@pytest.mark.usefixtures("pillow_resizes")
def test_the_example_answers_and_entails_without_torch(exported: Folders, pictures: list[Path]) -> None:
    for kind in ("vqa", "snli_ve"):
        source, out = exported(kind)
        pipeline = SohoPipeline.from_pretrained(source)
        for text, found in example(out, pictures[1], *TEXTS):
            expected = pipeline(pictures[1], text)
            assert len(found) == 3
            assert list(found) == [one.text for one in expected]  # the most probable first
            for one in expected:
                assert found[one.text] == pytest.approx(one.probability, abs=1e-4)


@pytest.mark.usefixtures("pillow_resizes")
def test_the_example_judges_two_pictures_without_torch(exported: Folders, pictures: list[Path]) -> None:
    source, out = exported("nlvr2")
    pipeline = SohoPipeline.from_pretrained(source)
    ((text, found),) = example(out, pictures[0], pictures[1], TEXTS[1])
    assert text == TEXTS[1]
    for one in pipeline.compare(pictures[0], pictures[1], text):
        assert found[one.text] == pytest.approx(one.probability, abs=1e-4)
    ((_, turned),) = example(out, pictures[1], pictures[0], TEXTS[1])
    assert abs(turned["true"] - found["true"]) > 1e-3


def test_a_graph_that_differs_is_not_written(
    exported: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, out = exported("vqa")

    def stale(graph: OneTextAPair, path: Path, step: int) -> None:
        shutil.copy(out / "model.onnx", path)

    monkeypatch.setattr(export_folder, "write_onnx", stale)
    source = tmp_path / "model"
    shutil.copytree(former, source)
    bias = load_file(source / "model.safetensors")["answer_head.4.bias"]
    export_onnx(source, tmp_path / "same", say=lambda _: None)
    change_weights(source, plus={"answer_head.4.bias": bias + torch.tensor([0.0, 0.01, 0.0])})
    with pytest.raises(SohoError, match=r"onnxruntime and torch differ by .* in a logit and .*; nothing was written"):
        export_onnx(source, tmp_path / "new" / "onnx", say=lambda _: None)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_model_that_cannot_be_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Looks(nn.Module):
        """A CNN that asks for numbers in the middle of its work."""

        def forward(self, pixel_values: Any) -> Any:
            return pixel_values[:, :, : int(pixel_values.sum())]

    def odd(model: SohoPreTrainedModel) -> OneTextAPair:
        graph: Any = graph_of(model)
        graph.model.soho.visual_encoder.backbone = Looks()
        return graph

    monkeypatch.setattr(export_folder, "graph_of", odd)
    source = save_model("snli_ve", tmp_path / "model")
    with pytest.raises(SohoError, match="torch cannot trace this model with dynamic shapes: ") as caught:
        export_onnx(source, tmp_path / "new" / "onnx", say=lambda _: None)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_bad_folders_and_absent_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(SohoError, match="full is there already; name a new folder"):
        export_onnx(tmp_path / "gone", tmp_path / "full")
    with pytest.raises(SohoError, match="gone is not a folder"):
        export_onnx(tmp_path / "gone", tmp_path / "new")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SohoError, match=r"needs the package onnxscript: pip install 'soho-vlp\[export\]'"):
        export_onnx(tmp_path / "gone", tmp_path / "new")
