"""recipes/pretrain/plan.py against numbers that are known from elsewhere or computed by hand."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from soho.errors import SohoError
from soho.training.recipe import load_recipe
from tests.support import ROOT

RECIPES = ROOT / "recipes" / "pretrain"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soho_plan", RECIPES / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def options(script: ModuleType, *arguments: str):  # type: ignore[no-untyped-def]
    return script.parse(["recipe.yaml", *arguments])


@pytest.mark.parametrize(("name", "products"), [("soho_r18_3l", 1.814e9), ("soho_r101_12l", 7.799e9)])
def test_the_cnn_costs_what_its_authors_say(script: ModuleType, name: str, products: float) -> None:
    # ResNet-18: 1.8, ResNet-101: 7.8 billion products at 224 x 224 (without the classifier of 0.5 and 2 million).
    cnn = script.build(load_recipe(RECIPES / f"{name}.yaml", ["data.root=."])).visual_backbone()
    forward, _ = script.measure_cnn(cnn, 224, 224)
    assert forward / 2 == pytest.approx(products, rel=2e-3)


def test_bytes_kept_are_those_of_real_tensors(script: ModuleType) -> None:
    cnn = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
    forward, kept = script.measure_cnn(cnn.to("meta"), 8, 8)
    # Kept: what goes into the first convolution, and the rectified maps, which serve two.
    assert kept == (3 + 4) * 64 * 2
    assert forward == 2 * 64 * (3 * 9 * 4 + 4 * 2)


def test_costs_of_the_paper_s_model(script: ModuleType) -> None:
    cost = script.cost_of(load_recipe(RECIPES / "soho_r101_12l.yaml", ["data.root=."]))
    assert (cost.tokens, cost.pairs, cost.recomputed) == (16 + 160, 4, True)
    # A layer: 2 x 7,077,888 a token, and 4 x 176 x 176 x 768; the dictionary: 160 cells x 2,048 codes x 768.
    layer = 2 * 176 * 7_077_888 + 4 * 176 * 176 * 768
    assert cost.fusion_forward == 4 * 12 * layer + 2 * 160 * 2048 * 768
    assert cost.fusion_kept == 4 * (12 * 2 + 34) * 176 * 768
    assert cost.operations(frozen=False) == 3 * cost.cnn_forward + 4 * cost.fusion_forward
    assert cost.operations(frozen=True) == cost.cnn_forward + 4 * cost.fusion_forward
    assert cost.cnn_weights == 42_500_160  # ResNet-101's 44,549,160 without the classifier's 2,049,000
    assert cost.fixed_bytes == 18 * cost.cnn_weights + 22 * cost.other_weights


def test_the_step_of_4096_pairs_is_cut_up_evenly(script: ModuleType) -> None:
    cost = script.cost_of(load_recipe(RECIPES / "soho_r18_3l.yaml", ["data.root=."]))
    for gpus in (1, 8, 32):
        one = script.plan(cost, gpus, options(script, "--gigabytes", "16"))
        assert gpus * one.batch_size * one.accumulation * cost.pairs == one.pairs == 4096
        assert one.gigabytes <= 0.85 * 16
        larger = one.batch_size * 2
        assert one.accumulation == 1 or (larger - one.batch_size) * 0.2 + one.gigabytes > 0.85 * 16
    alone = script.plan(cost, 1, options(script, "--share", "0.5", "--tflops", "100"))
    assert alone.seconds == pytest.approx(1024 * cost.operations(False) / 50e12)
    with pytest.raises(SohoError, match="4096 pairs are not 4 pairs a picture times whole pictures on 3 GPUs"):
        script.plan(cost, 3, options(script))
    with pytest.raises(SohoError, match=r"one picture needs 0\.2 GB beside 1\.3 GB of weights"):
        script.plan(cost, 8, options(script, "--gigabytes", "4"))


def test_what_fsdp_shares_out(script: ModuleType) -> None:
    cost = script.cost_of(load_recipe(RECIPES / "soho_r101_12l.yaml", ["data.root=."]))
    # A layer: 12 C^2 weights in matrices, 13 C in biases and norms.
    assert (cost.layers, cost.layer_weights) == (12, 12 * 768**2 + 13 * 768)
    outside = cost.other_weights - 12 * cost.layer_weights
    # Parts of weight, gradient and two moments; bfloat16 copies; gathered: what lies outside the layers, two layers,
    # the gradients of the former and of one layer, one exchange of the former.
    together = cost.shared_bytes(32, accumulated=False)
    gathered = 3 * outside + 3 * cost.layer_weights
    assert together == pytest.approx(18 * cost.cnn_weights + cost.other_weights * (16 / 32 + 2) + 4 * gathered)
    # Accumulated gradients are those of 11 layers more.
    assert cost.shared_bytes(32, accumulated=True) - together == pytest.approx(4 * 11 * cost.layer_weights)
    # Two processes: half of everything is sent. Gradients of the CNN twice and of the rest once; weights in each of 3
    # micro-batches, those of layers twice.
    weights = outside + 2 * 12 * cost.layer_weights
    sent = 0.5 * 4 * (2 * cost.cnn_weights + cost.other_weights + 3 * weights)
    assert cost.exchanged_bytes(2, 3, fsdp=True) == pytest.approx(sent)
    assert cost.exchanged_bytes(2, 3, fsdp=False) == pytest.approx(4 * (cost.cnn_weights + cost.other_weights))
    alone, shared = (script.plan(cost, gpus, options(script, "--fsdp")) for gpus in (1, 32))
    assert alone.gigabytes_fixed == pytest.approx(cost.fixed_bytes / 1e9)
    assert shared.gigabytes_fixed == pytest.approx(together / 1e9)


def test_the_table(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main([str(RECIPES / "soho_r101_12l.yaml")])
    script.main([str(RECIPES / "soho_r101_12l.yaml"), "--fsdp"])
    lines = capsys.readouterr().out.splitlines()
    assert "FSDP: weights and moments take by the number of GPUs 3.3 GB on 1, 2.0 GB on 8, 1.5 GB on 32" in lines
    rows = [line for line in lines if line.startswith("| ")]
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert len(rows) == 8
    assert all(row in page for row in rows)  # the tables in the documentation are those of the script
    with pytest.raises(SohoError, match=r"the form of model\.backbone=x is not known here"):
        script.main([str(RECIPES / "soho_r101_12l.yaml"), "model.backbone=x"])
