"""Parts of the released wiring against numbers worked out by hand or told by the fact sheet of the release."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVisualQuestionAnswering

from soho.errors import SohoError
from soho.models import (
    SohoConfig,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoModel,
    SohoReleasedConfig,
    SohoReleasedForPreTraining,
    SohoReleasedModel,
)
from soho.models.initialization import quiet_transformers
from soho.models.modeling_soho import build_trunk
from soho.models.released.dictionary import ReleasedDictionary
from soho.models.released.modeling_released_pretraining import choose_location, masked_cells
from soho.models.released.visual_parts import CodeGate, sampled_mask
from tests.unit.models.released import released_config, released_model
from tests.unit.models.tiny import filler_of, pretraining_batch, tiny_config


def columns(width: int, height: int, defect: bool, beside: tuple[int, int] | None = None) -> int:
    """Return the valid columns of a picture, padded to 32 and to a larger one beside it."""
    sizes = [(width, height), *([beside] if beside else [])]
    canvas_width, canvas_height = (max(-(-size[axis] // 32) * 32 for size in sizes) for axis in (0, 1))
    mask = torch.zeros(1, canvas_height, canvas_width, dtype=torch.bool)
    mask[:, :height, :width] = True
    grid = (-(-canvas_height // 32) // 2, -(-canvas_width // 32) // 2)
    cells = sampled_mask(mask, grid, defect)
    assert cells.shape[1:] == grid
    return int(cells[0, 0].sum())


@pytest.mark.parametrize(
    ("width", "height", "beside", "right", "wrong"),
    [
        (600, 800, None, 9, 7),  # a portrait picture loses columns
        (600, 899, None, 9, 6),
        (600, 1000, None, 9, 6),
        (800, 600, (1000, 563), 13, 16),  # beside a wider one, padding counts
        (533, 400, (1067, 800), 9, 12),
        (1000, 600, None, 16, 16),  # a landscape picture alone, and a square one, are unharmed
        (600, 600, None, 9, 9),
    ],
)
def test_valid_columns_with_and_without_the_width_defect(
    width: int, height: int, beside: tuple[int, int] | None, right: int, wrong: int
) -> None:
    assert columns(width, height, False, beside) == right
    assert columns(width, height, True, beside) == wrong


def test_pooling_comes_first_and_drops_the_odd_row() -> None:
    model = released_model("vqa")
    maps = model.trunk.visual_encoder(torch.zeros(1, 3, 608, 1024))
    assert maps.shape == (1, 16, 9, 16)  # 144 tokens at 600 x 1000
    assert model.trunk.visual_encoder.projection.bias is None


def test_cold_start_of_the_dictionary() -> None:
    dictionary = ReleasedDictionary(3, 1, momentum=0.4, epsilon=1e-5).train()
    dictionary.codes.copy_(torch.tensor([[0.0], [2.9], [50.0]]))
    lookup = dictionary(torch.tensor([[[1.0], [1.0], [3.0]]]))
    assert lookup.indices.tolist() == [[0, 0, 1]]
    # counts 0.6 * (2, 1, 0), sums 0.6 * (2, 3, 0); the code that nobody hit becomes zero at once.
    assert dictionary.counts.tolist() == pytest.approx([1.2, 0.6, 0.0])
    assert dictionary.sums.flatten().tolist() == pytest.approx([1.2, 1.8, 0.0])
    assert dictionary.hits.tolist() == [2, 1, 0]
    smoothed = [(count + 1e-5) / (1.8 + 3e-5) * 1.8 for count in (1.2, 0.6)]
    assert dictionary.codes.flatten().tolist() == pytest.approx([1.2 / smoothed[0], 1.8 / smoothed[1], 0.0])
    # What comes out are rows of the codes that have moved.
    assert lookup.embeddings[0, :, 0].tolist() == pytest.approx([1.0, 1.0, 3.0], rel=1e-4)
    assert dictionary.health() == {"codes_used": 2.0, "dead_codes": 1.0, "perplexity": pytest.approx(3 / 2 ** (2 / 3))}


def test_fillers_and_evaluation_do_not_move_the_dictionary() -> None:
    dictionary = ReleasedDictionary(4, 2, 0.4, 1e-5)
    before = {name: value.clone() for name, value in dictionary.state_dict().items()}
    features = torch.ones(1, 3, 2)
    dictionary.train()(features, torch.zeros(1, 3, dtype=torch.bool))
    dictionary.eval()(features, torch.ones(1, 3, dtype=torch.bool))
    assert all(torch.equal(value, before[name]) for name, value in dictionary.state_dict().items())
    dictionary.train()(features, torch.tensor([[True, False, False]]))
    assert int(dictionary.hits.sum()) == 3  # padding cells of a real picture count, as in the release


def test_equally_near_codes_give_the_lowest_index() -> None:
    dictionary = ReleasedDictionary(4, 2, 0.4, 1e-5).eval()
    dictionary.codes.zero_()
    assert dictionary(torch.randn(1, 5, 2)).indices.tolist() == [[0] * 5]


def test_the_gate_mixes_mapped_code_and_feature() -> None:
    gate = CodeGate(1).eval()
    with torch.no_grad():
        gate.mapping.weight.fill_(2.0)
        gate.mapping.bias.fill_(1.0)
        gate.projection.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1))
        gate.norm.eps = 0.0
    # Code 3 is mapped to 7; the gate's logits are 7 and 5, so the weights are e^2 : 1.
    out = gate(torch.tensor([[[3.0]]]), torch.tensor([[[[5.0]]]]))
    share = 1 / (1 + torch.tensor(2.0).exp().reciprocal())
    assert out.item() == pytest.approx(float(share * 7 + (1 - share) * 5))


def test_one_draw_says_whether_and_where() -> None:
    location, chosen = choose_location(torch.tensor([0.2, 0.9, 0.1]), 0.5, 10)
    assert (int(location), chosen.tolist()) == (4, [True, False, True])  # 0.2 / 0.5 of 10
    location, chosen = choose_location(torch.tensor([0.8, 0.1]), 0.5, 10)
    assert (int(location), chosen.tolist()) == (6, [False, True])  # (0.8 - 0.5) / 0.5 of 10
    places = [int(choose_location(torch.tensor([draw / 2000]), 0.015, 4)[0]) for draw in range(2000)]
    assert {place: places.count(place) for place in range(4)} == pytest.approx(dict.fromkeys(range(4), 500), abs=16)


def test_masked_cells() -> None:
    indices = torch.tensor([[3, 3, 5, 3], [5, 3, 3, -1], [7, -1, 7, 7], [3, 3, 3, 3]])
    chosen = torch.tensor([True, True, True, False])
    expected = [[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]  # in row 2 the place is padding
    assert masked_cells(indices, torch.tensor(1), chosen).long().tolist() == expected


def test_stem_and_first_stage_never_move() -> None:
    model = released_model("vqa")
    encoder = model.trunk.visual_encoder
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    model.train()
    model(torch.randn(2, 3, 128, 128), torch.full((2, 6), 7)).logits.sum().backward()
    fixed = [name for name, parameter in encoder.backbone.named_parameters() if not parameter.requires_grad]
    assert fixed
    assert all(name.startswith(("embedder.", "encoder.stages.0.")) for name in fixed)
    for name, value in encoder.backbone.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == name.startswith(("embedder.", "encoder.stages.0.")), name
    model.freeze_visual_backbone(True)
    assert not any(module.training for module in encoder.backbone.modules())
    assert encoder.norm.training
    model.remember_frozen_features(64)
    pixels = torch.randn(2, 3, 128, 128)
    assert torch.equal(encoder(pixels), encoder(pixels))
    assert len(encoder.memory._maps) == 2
    model.freeze_visual_backbone(False)
    assert len(encoder.memory._maps) == 0
    free = released_model("vqa", frozen_stages=-1)
    assert all(parameter.requires_grad for parameter in free.parameters())


def test_pre_training_losses_cover_all_pairs() -> None:
    model = released_model("pretraining", mvm_mask_probability=1.0).train()
    batch = pretraining_batch()
    codes = model.trunk.visual_dictionary.codes.clone()
    counts = model.loss_counts(batch)
    output = model(**batch)
    assert set(output.loss_parts) == set(counts) == {"mlm", "mvm", "itm"}
    assert len(output.mlm_labels) == int((batch["labels"] != -100).sum()) == int(counts["mlm"])
    assert output.metrics["mvm_accuracy"][1] == len(output.mvm_labels) > 0
    assert float(output.metrics["masked_pairs"][1]) == len(batch["itm_labels"])
    assert output.loss.item() == pytest.approx(float(sum(output.loss_parts.values())), rel=1e-6)
    output.loss.backward()
    assert model.mask_vector.weight.grad.abs().sum() > 0
    assert not torch.equal(codes, model.trunk.visual_dictionary.codes)  # at every forward pass in training
    after = model.trunk.visual_dictionary.codes.clone()
    model.after_optimizer_step()
    assert torch.equal(after, model.trunk.visual_dictionary.codes)
    assert set(model.health()) == {"codes_used", "dead_codes", "perplexity"}


def test_no_mask_without_draws_and_none_with_probability_zero() -> None:
    model = released_model("pretraining", mvm_mask_probability=0.0)
    batch = pretraining_batch()
    with torch.no_grad():
        output = model(**batch)
        drawn = batch.pop("mvm_draws")
        undrawn = model(**batch)
    assert len(drawn)
    assert len(output.mvm_labels) == 0
    assert float(output.loss_parts["mvm"]) == 0.0
    assert "mvm" not in undrawn.loss_parts
    assert torch.equal(output.logits, undrawn.logits)


def test_fillers_count_for_nothing() -> None:
    model = released_model("pretraining", mvm_mask_probability=1.0).train()
    filler = filler_of(pretraining_batch())
    before = model.trunk.visual_dictionary.codes.clone()
    assert {name: float(count) for name, count in model.loss_counts(filler).items()} == {"mlm": 0, "mvm": 0, "itm": 0}
    output = model(**filler)
    assert output.loss.item() == 0.0
    assert torch.equal(before, model.trunk.visual_dictionary.codes)


def test_a_training_batch_of_one_cell_is_refused() -> None:
    model = released_model("vqa").train()
    with pytest.raises(SohoError, match="needs more than one cell"):
        model(torch.zeros(1, 3, 64, 64), torch.full((1, 6), 7))
    assert model.eval()(torch.zeros(1, 3, 64, 64), torch.full((1, 6), 7)).logits.isfinite().all()


# -- Folders and classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pretraining", "vqa"])
def test_folders_load_by_every_class_that_reads_them(kind: str, tmp_path: Path) -> None:
    model = released_model(kind, mask_width_defect=True)
    model.save_pretrained(tmp_path)
    auto = AutoModelForPreTraining if kind == "pretraining" else AutoModelForVisualQuestionAnswering
    general = SohoForPreTraining if kind == "pretraining" else SohoForQuestionAnswering
    with quiet_transformers():
        config = AutoConfig.from_pretrained(tmp_path)
        models = [read.from_pretrained(tmp_path) for read in (type(model), auto, general)]
        trunks = [read.from_pretrained(tmp_path) for read in (AutoModel, SohoModel, SohoReleasedModel)]
    assert type(config) is type(SohoConfig.from_pretrained(tmp_path)) is SohoReleasedConfig
    assert config.mask_width_defect
    for again in models:
        assert type(again) is type(model)
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
        frozen = [name for name, parameter in again.named_parameters() if not parameter.requires_grad]
        assert frozen == [name for name, parameter in model.named_parameters() if not parameter.requires_grad] != []
    for trunk in trunks:
        assert type(trunk) is SohoReleasedModel
        assert all(torch.equal(value, trunk.state_dict()[name]) for name, value in model.trunk.state_dict().items())
    assert ("mlm_head.weight" in load_file(tmp_path / "model.safetensors")) is False


def test_the_paper_wiring_is_untouched(tmp_path: Path) -> None:
    assert type(build_trunk(tiny_config())) is SohoModel
    assert type(build_trunk(released_config())) is SohoReleasedModel
    SohoModel(tiny_config()).save_pretrained(tmp_path)
    with quiet_transformers():
        assert type(SohoModel.from_pretrained(tmp_path)) is SohoModel
    with pytest.raises(SohoError, match=r"is a 'soho' model; expected 'soho-released'"):
        SohoReleasedConfig.from_pretrained(tmp_path)


def test_match_head_has_no_bias_and_mlm_is_the_word_embedding() -> None:
    model = released_model("pretraining")
    assert isinstance(model, SohoReleasedForPreTraining)
    assert model.match_head.bias is None
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dictionary_revive_after": 5}, "dictionary_revive_after=5 belongs to the paper's wiring"),
        ({"visual_feature_norm": "none"}, "visual_feature_norm='none' belongs to the paper's wiring"),
        ({"frozen_stages": -2}, "frozen_stages=-2 must be"),
        ({"mask_width_defect": "yes"}, "mask_width_defect='yes' must be true or false"),
        ({"mvm_mask_probability": 1.5}, r"mvm_mask_probability=1.5 must be a number in \[0, 1\]"),
        ({"dictionary_epsilon": 0.0}, "dictionary_epsilon=0.0 must be above 0"),
        ({"visual_backbone": {"model_type": "convnext"}}, "must be a resnet"),
    ],
)
def test_bad_configurations(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SohoError, match=words):
        released_config(**fields)
