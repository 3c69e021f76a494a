"""What 8 bits cost, by the figures of the task."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from soho.cli import main
from soho.errors import SohoError
from soho.export.measurement import check_recipe, cost_of_int8
from soho.runs import evaluate
from tests.tiny_recipes import tiny_recipe, tiny_values, write_recipe

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="needs the extra 'export'")

pytestmark = pytest.mark.slow  # torch takes ten seconds to trace even a small model


def test_float32_figures_are_those_of_evaluate(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = trained / "vqa" / "model", tmp_path / "onnx"
    recipe = write_recipe(tmp_path / "vqa.yaml", tiny_values("vqa", world, tmp_path / "run"))
    arguments = ["export", "onnx", source, out, "--int8", "--recipe", recipe, "--split", "test", "data.workers=0"]
    monkeypatch.setattr(sys, "argv", ["soho", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    said = capsys.readouterr().out
    assert leaving.value.code == 0
    expected = evaluate(tiny_recipe("vqa", world, tmp_path / "run"), "test", source)
    found = cost_of_int8(tiny_recipe("vqa", world, tmp_path / "run"), "test", source, out)
    assert set(found) == set(expected) - {"majority"}
    assert {name: exact for name, (exact, _) in found.items()} == {name: expected[name] for name in found}
    assert all(0 <= rounded <= 1 for name, (_, rounded) in found.items() if "accuracy" in name)
    assert f"accuracy: float32 {expected['accuracy']:.4g}, int8 {found['accuracy'][1]:.4g}" in said
    assert "model.int8.onnx: 8 products with weights in 8 bits" in said  # one layer of six, two of the head


def test_recalls_are_those_of_evaluate(world: Path, trained: Path, tmp_path: Path) -> None:
    from soho.export import export_onnx

    source, out = trained / "retrieval" / "model", tmp_path / "onnx"
    export_onnx(source, out, int8=True, say=lambda _: None)
    recipe = tiny_recipe("retrieval", world, tmp_path / "run", "evaluation.max_images=8", "evaluation.pair_batch=11")
    expected = evaluate(recipe, "test", source)
    found = cost_of_int8(recipe, "test", source, out)
    assert {"tr_r1", "ir_r10", "recall_mean", "tr_median_rank"} <= set(found)
    for name, (exact, _) in found.items():
        assert exact == pytest.approx(expected[name], abs=1e-6)


def test_a_recipe_that_does_not_fit(world: Path, trained: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("vqa", world, tmp_path / "run")
    with pytest.raises(SohoError, match=r"the recipe has task: vqa, but .* holds a SohoForVisualReasoning"):
        check_recipe(recipe, trained / "nlvr2" / "model", "test")
    recipe.data.test = []
    with pytest.raises(SohoError, match=r"names no source under data\.test"):
        check_recipe(recipe, trained / "vqa" / "model", "test")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["seed=1"], "soho: seed=1 changes a recipe, but none is named (--recipe)\n"),
        (["--recipe", "some.yaml"], "soho: --recipe measures what 8 bits cost; give --int8 too\n"),
        (["--split", "dev"], "soho: --split 'dev' is not known; expected train, validation or test\n"),
    ],
)
def test_arguments_that_say_nothing_together(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["soho", "export", "onnx", "model", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 1
    assert capsys.readouterr().err == sentence
