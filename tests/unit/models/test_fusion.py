"""Fusion Transformer and text embedding against transformers' BERT, and against themselves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from soho.errors import SohoError
from soho.models import SohoForImageTextRetrieval, SohoForPreTraining
from soho.models.fusion import FusionTransformer, plain_attention
from soho.models.initialization import load_text, text_config_fields
from soho.training.optimizer_step import checkpoint_activations
from tests.unit.models.tiny import VOCABULARY, gradients, picture_batch, pretraining_batch, stirred, tiny_config


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    """A BERT whose every number matters: nothing is one or zero, and its epsilon is far from any default."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=12,
        layer_norm_eps=0.05,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return stirred(BertForMaskedLM(config)).eval()


@pytest.fixture(scope="module")
def bert_folder(bert: BertForMaskedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(folder)
    return folder


def text_only(model: SohoForPreTraining, ids: Tensor, attention: Tensor) -> Tensor:
    """Run text through fusion beside a picture of no tokens."""
    text = model.soho.encode_text(ids)
    none = text.new_zeros(len(ids), 0, 16)
    return model.soho.fuse(text, attention, none, torch.zeros(len(ids), 0, dtype=torch.bool))[0]


@pytest.mark.parametrize("layers", [3, 2, 1])
def test_text_equals_bert_with_its_first_layers(bert: BertForMaskedLM, bert_folder: Path, layers: int) -> None:
    fields = text_config_fields(str(bert_folder), layers)
    torch.manual_seed(1)
    model = SohoForPreTraining(tiny_config(**fields)).eval()
    report = load_text(model, str(bert_folder))
    texts = picture_batch(3, 64, 64)
    ids, attention = texts["input_ids"], texts["attention_mask"]
    with torch.no_grad():
        ours = text_only(model, ids, attention)
        theirs = bert.bert(ids, attention, output_hidden_states=True).hidden_states[layers]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.mlm_head(ours), bert.cls(theirs), atol=1e-5, rtol=0)
        # The tied decoder follows the loaded embedding.
        assert model.mlm_head.decoder.weight is model.soho.embeddings.word_embeddings.weight
    assert theirs.std() > 0.5
    assert report.loaded["text embedding and fusion layers"] == (str(bert_folder), 5 + 16 * layers)
    assert report.loaded["mlm_head"] == (str(bert_folder), 5)
    assert len(report.left_over) == (layers < 3)


@torch.no_grad()
def test_layers_before_the_picture_read_the_text_alone(bert: BertForMaskedLM, bert_folder: Path) -> None:
    fields = text_config_fields(str(bert_folder), 3)
    model = SohoForPreTraining(tiny_config(**fields, fusion_start=2)).eval()
    load_text(model, str(bert_folder))
    texts = picture_batch(3, 64, 64)
    ids, attention = texts["input_ids"], texts["attention_mask"]
    assert not attention.all()
    theirs = bert.bert(ids, attention, output_hidden_states=True).hidden_states
    states = model.soho.encode_text(ids, attention)
    used = attention.bool()
    torch.testing.assert_close(states[used], theirs[2][used], atol=1e-5, rtol=0)
    # Beside a picture of no tokens the last layer ends where BERT ends; beside any picture the text's states before
    # it are the same.
    none = states.new_zeros(3, 0, 16)
    alone = model.soho.fuse(states, attention, none, torch.zeros(3, 0, dtype=torch.bool))[0]
    torch.testing.assert_close(alone[used], theirs[3][used], atol=1e-5, rtol=0)
    output = model.soho(**texts, output_hidden_states=True)
    assert len(output.hidden_states) == 2
    torch.testing.assert_close(output.hidden_states[0][:, : ids.shape[1]][used], theirs[2][used], atol=1e-5, rtol=0)
    assert (output.last_hidden_state[:, 0] - theirs[3][:, 0]).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("extra", [1, 2])
def test_layers_behind_all_of_berts_start_as_copies_of_its_last_ones(
    bert: BertForMaskedLM, bert_folder: Path, extra: int
) -> None:
    fields = {**text_config_fields(str(bert_folder)), "num_hidden_layers": 3 + extra}
    model = SohoForPreTraining(tiny_config(**fields, fusion_start=3)).eval()
    report = load_text(model, str(bert_folder))
    texts = picture_batch(3, 64, 64)
    ids, attention = texts["input_ids"], texts["attention_mask"]
    used = attention.bool()
    theirs = bert.bert(ids, attention).last_hidden_state
    torch.testing.assert_close(model.soho.encode_text(ids, attention)[used], theirs[used], atol=1e-5, rtol=0)
    for number in range(extra):
        left, right = (model.soho.fusion.layers[place].state_dict() for place in (3 - extra + number, 3 + number))
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert report.loaded["text embedding and fusion layers"] == (str(bert_folder), 5 + 16 * 3)
    ((source, count),) = (value for part, value in report.loaded.items() if part == f"fusion layers 3 to {2 + extra}")
    assert (source, count) == (f"{bert_folder}, layers {3 - extra} to 2 once more", 16 * extra)
    assert not report.left_over


def test_more_layers_than_berts_need_the_picture_behind_them(bert_folder: Path) -> None:
    fields = {**text_config_fields(str(bert_folder)), "num_hidden_layers": 4}
    with pytest.raises(SohoError, match=r"num_hidden_layers=4, but .* has 3 layers; only with fusion_start=3 may"):
        load_text(SohoForPreTraining(tiny_config(**fields, fusion_start=2)), str(bert_folder))
    fields["num_hidden_layers"] = 7
    for start in (3, 4):
        with pytest.raises(SohoError, match=r"num_hidden_layers=7, but .* has 3 layers; only with fusion_start=3 may"):
            load_text(SohoForPreTraining(tiny_config(**fields, fusion_start=start)), str(bert_folder))


@pytest.mark.parametrize("start", [-1, 3, 1.5])
def test_at_least_one_layer_reads_both(start: float) -> None:
    with pytest.raises(SohoError, match=f"fusion_start={start} must be a whole number"):
        tiny_config(num_hidden_layers=3, fusion_start=start)


@pytest.fixture
def fusion() -> FusionTransformer:
    torch.manual_seed(2)
    model = SohoForImageTextRetrieval(tiny_config(num_attention_heads=4))
    return stirred(model.soho.fusion).eval()


@pytest.fixture
def sequence() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return torch.randn(2, 7, 16, generator=generator), mask


def test_weights_on_request_leave_the_result_and_are_a_masked_softmax(
    fusion: FusionTransformer, sequence: tuple[Tensor, Tensor]
) -> None:
    hidden, mask = sequence
    plain, _, none = fusion(hidden, mask)
    asked, states, weights = fusion(hidden, mask, output_attentions=True, output_hidden_states=True)
    assert none is None
    assert weights is not None
    assert states is not None
    torch.testing.assert_close(asked, plain, atol=1e-5, rtol=0)
    assert [tuple(w.shape) for w in weights] == [(2, 4, 7, 7)] * 2
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4, 7))
    assert weights[0][1, :, :, 4:].abs().max() == 0
    assert len(states) == 3
    assert torch.equal(states[0], hidden)
    assert torch.equal(states[-1], asked)


def test_masked_positions_cannot_be_read(fusion: FusionTransformer, sequence: tuple[Tensor, Tensor]) -> None:
    hidden, mask = sequence
    changed = torch.where(mask.unsqueeze(-1), hidden, torch.full_like(hidden, 50.0))
    torch.testing.assert_close(fusion(changed, mask)[0][mask], fusion(hidden, mask)[0][mask])


@pytest.mark.parametrize("attentions", [False, True])
def test_cls_only_is_the_first_row(
    fusion: FusionTransformer, sequence: tuple[Tensor, Tensor], attentions: bool
) -> None:
    hidden, mask = sequence
    full, _, full_weights = fusion(hidden, mask, output_attentions=attentions)
    row, _, weights = fusion(hidden, mask, cls_only=True, output_attentions=attentions)
    assert row.shape == (2, 1, 16)
    torch.testing.assert_close(row, full[:, :1], atol=1e-5, rtol=0)
    if attentions:
        assert weights is not None
        assert full_weights is not None
        torch.testing.assert_close(weights[-1], full_weights[-1][:, :, :1])


def test_a_pair_with_nothing_to_read_gives_no_nan(fusion: FusionTransformer) -> None:
    hidden = torch.randn(2, 5, 16, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5])
    for attentions in (False, True):
        result = fusion(hidden, mask, cls_only=True, output_attentions=attentions)[0]
        result.sum().backward()
        assert result.isfinite().all()
        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()


@pytest.mark.filterwarnings("error:.gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_changes_nothing() -> None:
    torch.manual_seed(4)
    plain = SohoForPreTraining(tiny_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)).train()
    spared = copy.deepcopy(plain)
    checkpoint_activations(spared)
    batch = pretraining_batch(2)
    outputs = []
    for model in (plain, spared):
        torch.manual_seed(5)  # the same dropout
        outputs.append(model(**batch))
        outputs[-1].loss.backward()
        model.after_optimizer_step()
    assert spared.soho.fusion.layers[0].gradient_checkpointing
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    left, right = gradients(plain), gradients(spared)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, msg=name)
    # Nothing was counted twice in the second forward pass: batch norm, dictionary.
    for (name, one), (_, two) in zip(plain.named_buffers(), spared.named_buffers()):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("layers", [1, 3])
def test_pair_flops_are_those_that_are_done(layers: int) -> None:
    model = SohoForImageTextRetrieval(tiny_config(num_hidden_layers=layers)).eval()
    text, visual = torch.randn(1, 5, 16), torch.randn(1, 7, 16)
    masks = torch.ones(1, 5, dtype=torch.bool), torch.ones(1, 7, dtype=torch.bool)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.score_pairs(text, masks[0], visual, masks[1])
    head = 2 * 16 * 2
    assert model.pair_flops(5, 7) == counter.get_total_flops() - head


@pytest.mark.parametrize("rows", [1, 7])
def test_plain_attention_equals_the_fused_kernel_with_its_gradients(rows: int) -> None:
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(3, 2, rows, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(3, 2, 7, 8, generator=generator, requires_grad=True) for _ in range(2))
    mask = torch.rand(3, 7, generator=generator) < 0.6
    mask[:, 0] = True
    upstream = torch.randn(3, 2, rows, 8, generator=generator)
    mixed, weights = plain_attention(query, key, value, mask, 0.0)
    wanted = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    torch.testing.assert_close(mixed, wanted, atol=1e-6, rtol=1e-5)
    assert not weights.masked_select(~mask[:, None, None, :].expand_as(weights)).any()
    ours = torch.autograd.grad(mixed, (query, key, value), upstream)
    theirs = torch.autograd.grad(wanted, (query, key, value), upstream)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_plain_attention_in_bfloat16_fills_rows_up_and_cuts_them_again() -> None:
    generator = torch.Generator().manual_seed(6)
    query, key, value = (torch.randn(3, 2, 7, 8, generator=generator) for _ in range(3))
    mask = torch.rand(3, 7, generator=generator) < 0.6
    mask[:, 0] = True
    exact, exact_weights = plain_attention(query, key, value, mask, 0.0)
    mixed, weights = plain_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask, 0.0)
    assert (mixed.shape, weights.shape) == (exact.shape, exact_weights.shape)
    torch.testing.assert_close(mixed.float(), exact, atol=0.03, rtol=0.03)
    torch.testing.assert_close(weights.float(), exact_weights, atol=0.02, rtol=0.02)
