"""The exportable form of a model says what the model says; needs no ONNX package."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soho.errors import SohoError
from soho.export.folder import torch_answers
from soho.export.graph import graph_of
from soho.export.inputs import CASES, Case, agreement, random_inputs
from soho.export.onnx_file import dynamic_shapes, pixel_step
from soho.export.parts import Codes, ColumnLinear, WholeCells
from soho.models import SohoModel
from soho.models.visual_dictionary import VisualDictionary
from soho.pipelines import SohoPipeline
from tests.unit.export.folders import MODELS, save_model
from tests.unit.models.released import released_model
from tests.unit.models.tiny import tiny_config


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_graph_says_what_the_model_says(kind: str, tmp_path: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(save_model(kind, tmp_path))
    step = pixel_step(pipeline.processor.image_processor.size_divisor)
    assert step == (32 if kind.startswith("released") else 64)
    before = {name: tensor.clone() for name, tensor in pipeline.model.state_dict().items()}
    graph = graph_of(pipeline.model)

    def answers(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        assert tuple(inputs) == graph.input_names
        return graph(*inputs.values())

    found = agreement(torch_answers(pipeline.model), answers, graph.input_names, step, pipeline.model.config)
    assert found.cases == len(CASES)
    assert found.logits < 1e-5
    assert found.probabilities < 1e-5
    for name, tensor in pipeline.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_masks_are_pooled_by_cells_of_32_pixels() -> None:
    mask = torch.zeros(2, 1, 64, 128)
    mask[0, 0, 31, 96] = 1  # row 0, column 3
    mask[1, 0, 32:, :33] = 1  # row 1, columns 0 and 1
    with WholeCells():
        cells = F.adaptive_max_pool2d(mask, (2, 4))
    assert cells[0, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert cells[1, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
    assert torch.equal(cells, F.adaptive_max_pool2d(mask, (2, 4)))


def test_codes_by_hand() -> None:
    codes = Codes(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), zero_padding=True)
    features = torch.tensor([[[0.9, 0.2], [1.1, 0.2], [0.0, 2.0]]])
    embeddings, indices = codes(features, torch.tensor([[True, True, False]]))
    assert indices.tolist() == [[0, 1, 2]]
    assert embeddings.tolist() == [[[0, 0], [2, 0], [0, 0]]]


def test_codes_are_those_of_the_dictionary() -> None:
    torch.manual_seed(0)
    dictionary = VisualDictionary(32, 8).eval()
    features, mask = torch.randn(3, 10, 8), torch.rand(3, 10) > 0.3
    expected = dictionary(features, mask)
    embeddings, indices = Codes(dictionary.codes, zero_padding=True)(features, mask)
    assert torch.equal(embeddings, expected.embeddings)
    assert torch.equal(indices[mask], expected.indices[mask])


def test_a_column_linear_by_hand() -> None:
    linear = nn.Linear(2, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        linear.bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
    assert ColumnLinear(linear)(torch.tensor([[1.0, 10.0]])).tolist() == [[21.5, 43.0, 64.5]]
    assert ColumnLinear(nn.Linear(2, 3, bias=False)).bias is None


def test_differences_by_hand() -> None:
    exact = (torch.tensor([[4.0, 0.0]]), torch.tensor([[0.9, 0.1]]))
    names, config = ("input_ids",), tiny_config()

    def differing(logits: float, shares: float) -> tuple[float, float]:
        other = (exact[0] + torch.tensor([0.0, logits]), exact[1] - torch.tensor([shares, 0.0]))
        found = agreement(lambda _: exact, lambda _: other, names, 64, config, CASES[:2])
        assert found.cases == 2
        return found.logits, found.probabilities

    assert differing(0.5, 0.25) == pytest.approx((0.125, 0.25))  # a share of the largest logit, 4
    assert differing(math.nan, 0.0) == (math.inf, 0.0)
    small = (torch.tensor([[0.1, 0.0]]), exact[1])
    assert agreement(lambda _: small, lambda _: (small[0] * 2, exact[1]), names, 64, config).logits == pytest.approx(
        0.1
    )


def test_random_inputs_hold_padding_of_both_kinds() -> None:
    names = ("pixel_values", "pixel_mask", "pixel_values_2", "pixel_mask_2", "input_ids", "attention_mask")
    inputs = random_inputs(Case(2, 3, 2, 3, 30), names, 64, tiny_config(), seed=1)
    assert tuple(inputs) == names
    assert inputs["pixel_values"].shape == (2, 3, 192, 128)
    assert inputs["pixel_values_2"].shape == (2, 3, 128, 192)
    assert inputs["input_ids"].shape == (3, 12)  # as many positions as the model has
    assert inputs["attention_mask"].sum(1).tolist() == [12, 11, 10]
    mask = inputs["pixel_mask"]
    assert mask[0, :, :58].all()
    assert not mask[0, :, 58:].any()
    assert mask[1, :122].all()
    assert not mask[1, 122:].any()
    assert not inputs["pixel_values"][~mask.unsqueeze(1).expand(-1, 3, -1, -1)].any()
    odd = random_inputs(Case(1, 3, 2, 1, 4), ("pixel_mask",), 32, tiny_config(), seed=1)["pixel_mask"]
    assert odd.shape == (1, 160, 96)  # two cells of 64 pixels and a half


def test_open_axes() -> None:
    shapes = dynamic_shapes(("pixel_values", "pixel_mask", "input_ids", "pair_image_index"), 64, 12)
    assert {name: sorted(axes) for name, axes in shapes.items()} == {
        "pixel_values": [0, 2, 3],
        "pixel_mask": [0, 1, 2],
        "input_ids": [0, 1],
        "pair_image_index": [0],
    }


def test_steps_of_pixels() -> None:
    assert [pixel_step(divisor) for divisor in (64, 128, 32, 96)] == [64, 64, 32, 32]
    with pytest.raises(SohoError, match="padded to multiples of 16; the export needs multiples of 32"):
        pixel_step(16)


def test_what_cannot_be_exported() -> None:
    with pytest.raises(SohoError, match="a SohoModel cannot be exported; expected one of SohoForImageTextRetrieval, "):
        graph_of(SohoModel(tiny_config()))
    with pytest.raises(SohoError, match="mask_width_defect cannot be exported"):
        graph_of(released_model("vqa", mask_width_defect=True))
