"""`SohoForPreTraining`: what is masked, what is counted, what the loss is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from soho.errors import SohoError
from soho.models import SohoForPreTraining
from soho.models.modeling_pretraining import among, places_of
from soho.models.visual_masking import choose_masked_cells
from tests.unit.models.tiny import (
    MASK,
    filler_of,
    gradients,
    half_of,
    pretraining_batch,
    stirred,
    tiny_config,
)


def build(**changes: Any) -> SohoForPreTraining:
    torch.manual_seed(0)
    return stirred(SohoForPreTraining(tiny_config(**changes)))


def placed_tokens(model: SohoForPreTraining, batch: dict[str, Tensor], **options: Any) -> tuple[Tensor, Any]:
    """Return the visual tokens (P, N, C) that go into the Transformer, before position, and the output."""
    seen: list[Tensor] = []
    place = model.soho.place

    def watched(tokens: Tensor, position: Tensor) -> Tensor:
        seen.append(tokens.detach().clone())
        return place(tokens, position)

    model.soho.place = watched  # type: ignore[method-assign]
    try:
        output = model(**batch, **options)
    finally:
        del model.soho.place
    return seen[0], output


def test_masked_pairs_tells_how_many_positives_have_something_hidden() -> None:
    model, batch = build().eval(), pretraining_batch()
    output = model(**batch)
    hidden = choose_masked_cells(output.visual_indices[batch["pair_image_index"]], batch["mvm_draws"]).any(1)
    positive = batch["itm_labels"] == 1
    total, count = output.metrics["masked_pairs"]
    assert (total.item(), count.item()) == (float((hidden & positive).sum()), 4.0)
    # A dictionary of one code leaves nothing that may be hidden: its only index covers every cell.
    total, count = build(dictionary_size=1).eval()(**batch).metrics["masked_pairs"]
    assert (total.item(), count.item()) == (0.0, 4.0)


def test_the_summary_does_not_show_what_mvm_hides() -> None:
    model, batch = build(visual_summary=True).eval(), pretraining_batch()
    hidden = model(**batch)
    open_ = model(**{name: value for name, value in batch.items() if name != "mvm_draws"})
    with torch.no_grad():
        weight = model.soho.visual_encoder.summary.attention.weight
        weight += 9.0 * torch.randn(weight.shape)
    torch.testing.assert_close(model(**batch).mvm_logits, hidden.mvm_logits)
    torch.testing.assert_close(model(**batch).logits, hidden.logits)
    changed = model(**{name: value for name, value in batch.items() if name != "mvm_draws"})
    assert (changed.logits - open_.logits).abs().max() > 1e-3


def test_mask_vector_is_the_mask_words_embedding_for_positives_and_negatives() -> None:
    model, batch = build().eval(), pretraining_batch()
    tokens, output = placed_tokens(model, batch)
    indices = output.visual_indices[batch["pair_image_index"]]  # (P, N)
    masked = choose_masked_cells(indices, batch["mvm_draws"])
    assert masked.any(1).all()  # every pair, negatives too: a [MASK] must not tell the match
    word = model.soho.embeddings.word_embeddings.weight[MASK].detach()
    assert (tokens[masked] == word).all()
    codes = model.soho.visual_dictionary.codes  # type: ignore[union-attr]
    seen = ~masked & (indices >= 0)
    assert torch.equal(tokens[seen], codes[indices[seen]])
    assert tokens[indices < 0].abs().sum() == 0


def test_without_draws_nothing_is_masked() -> None:
    model, batch = build().eval(), pretraining_batch()
    del batch["mvm_draws"]
    tokens, output = placed_tokens(model, batch)
    word = model.soho.embeddings.word_embeddings.weight[MASK].detach()
    assert not (tokens == word).all(-1).any()
    assert set(output.loss_parts) == {"mlm", "itm"}
    assert set(model.loss_counts(batch)) == {"mlm", "itm"}


def test_only_positives_carry_mlm_and_mvm() -> None:
    model, batch = build().eval(), pretraining_batch()
    output = model(**batch)
    positive = batch["itm_labels"] == 1
    kept = batch["labels"][positive]
    assert output.mlm_labels.tolist() == kept[kept != -100].tolist()
    assert (batch["labels"][~positive] != -100).any()
    indices = output.visual_indices[batch["pair_image_index"]]
    masked = choose_masked_cells(indices, batch["mvm_draws"])
    assert output.mvm_labels.tolist() == indices[masked & positive.unsqueeze(1)].tolist()
    assert masked[~positive].any()
    assert output.mvm_logits.shape == (len(output.mvm_labels), 8)
    assert output.logits.shape == (8, 2)


def test_parts_by_their_definitions_and_equal_weights() -> None:
    model, batch = build().eval(), pretraining_batch()
    output = model(**batch, output_hidden_states=True)
    last = output.hidden_states[-1]
    labels, match = batch["labels"], batch["itm_labels"]
    itm = F.cross_entropy(model.match_head(last[:, 0]), match)
    at = (labels != -100) & (match == 1).unsqueeze(1)
    mlm = F.cross_entropy(model.mlm_head(last[:, :6][at]), labels[at])
    indices = output.visual_indices[batch["pair_image_index"]]
    masked = choose_masked_cells(indices, batch["mvm_draws"])
    each = [
        F.cross_entropy(model.mvm_head(last[row, 6:][masked[row]]), indices[row][masked[row]])  # type: ignore[misc]
        for row in range(8)
        if match[row] == 1
    ]
    mvm = torch.stack(each).mean()
    assert len(each) == 4
    for name, value in {"itm": itm, "mlm": mlm, "mvm": mvm}.items():
        torch.testing.assert_close(output.loss_parts[name], value.detach(), msg=name)
    torch.testing.assert_close(output.loss, itm + mlm + mvm)
    correct = int((model.match_head(last[:, 0]).argmax(1) == match).sum())
    assert [value.item() for value in output.metrics["itm_accuracy"]] == [correct, 8.0]
    assert output.metrics["mlm_accuracy"][1].item() == len(output.mlm_labels)


def test_weights_of_the_configuration() -> None:
    batch = pretraining_batch()
    output = build(mlm_weight=2.0, mvm_weight=0.0, itm_weight=0.5).eval()(**batch)
    parts = output.loss_parts
    torch.testing.assert_close(output.loss, 2 * parts["mlm"] + 0.5 * parts["itm"])
    torch.testing.assert_close(parts["mvm"], build().eval()(**batch).loss_parts["mvm"])  # a part is not weighted


def test_loss_counts_are_those_of_the_forward_pass() -> None:
    model, batch = build(), pretraining_batch()
    batch["itm_labels"][0] = -100  # a positive pair that is ignored altogether
    counts = {name: value.item() for name, value in model.loss_counts(batch).items()}
    kept = (batch["labels"][2::2] != -100).sum().item()
    assert counts == {"mlm": kept, "itm": 7.0, "mvm": 3.0}
    output = model(**batch)
    assert output.metrics["itm_accuracy"][1].item() == 7.0
    assert len(output.mlm_labels) == kept


PARTS = ("mlm", "mvm", "itm")


@pytest.mark.parametrize("part", PARTS)
def test_two_halves_with_joined_denominators_are_the_whole(part: str) -> None:
    weights = {f"{name}_weight": float(name == part) for name in PARTS}
    model, batch = build(**weights).train(), pretraining_batch()
    model.freeze_visual_backbone(True)  # batch norm would see another batch
    whole = model(**batch)
    whole.loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    halves = [half_of(batch, 0), half_of(batch, 1)]
    counts = [model.loss_counts(half) for half in halves]
    assert counts[0]["mlm"] != counts[1]["mlm"]  # or a mean of means would do
    joined = {name: counts[0][name] + counts[1][name] for name in PARTS}
    outputs = [model(**half, loss_denominators=joined) for half in halves]
    for output in outputs:
        output.loss.backward()
    torch.testing.assert_close(outputs[0].loss + outputs[1].loss, whole.loss)
    for name in PARTS:
        torch.testing.assert_close(outputs[0].loss_parts[name] + outputs[1].loss_parts[name], whole.loss_parts[name])
    actual = gradients(model)
    assert actual.keys() == expected.keys()
    assert sum(float(value.abs().sum()) for value in expected.values()) > 0.1
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_fillers_count_for_nothing() -> None:
    model, batch = build().train(), filler_of(pretraining_batch())
    assert {name: value.item() for name, value in model.loss_counts(batch).items()} == dict.fromkeys(PARTS, 0.0)
    output = model(**batch)
    output.loss.backward()
    assert output.loss.item() == 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # every parameter takes part, so that processes stay in step
        assert parameter.grad.abs().sum() == 0, name
    before = model.soho.visual_dictionary.codes.clone()  # type: ignore[union-attr]
    model.after_optimizer_step()
    assert torch.equal(model.soho.visual_dictionary.codes, before)  # type: ignore[union-attr]
    assert all(value.item() == 0 for total in output.metrics.values() for value in total)


def test_dictionary_moves_only_after_the_step_and_sees_every_picture_once() -> None:
    model, batch = build(dictionary_ramp_steps=0, dictionary_momentum=0.0).train(), pretraining_batch()
    dictionary = model.soho.visual_dictionary
    assert dictionary is not None
    before = dictionary.codes.clone()
    output = model(**batch)
    output.loss.backward()
    assert torch.equal(dictionary.codes, before)
    assert dictionary._counts is not None
    # Two texts read each picture, but a cell counts once.
    assert dictionary._counts.tolist() == [(output.visual_indices == k).sum().item() for k in range(8)]
    model.after_optimizer_step()
    moved = (dictionary.codes != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [k for k in output.visual_indices.unique().tolist() if k >= 0]
    assert not any("codes" in name for name, _ in model.named_parameters())
    assert set(model.health()) == {"codes_used", "dead_codes", "perplexity"}
    assert model.health()["codes_used"] == len(moved)


def test_gradient_flows_through_the_dictionary_into_the_cnn() -> None:
    model, batch = build(mlm_weight=0.0, mvm_weight=0.0).train(), pretraining_batch()
    model(**batch).loss.backward()
    first = next(model.visual_backbone().parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_pair_index_equals_repeated_pictures() -> None:
    model, batch = build().eval(), pretraining_batch()
    paired = model(**batch)
    rows = batch.pop("pair_image_index")
    del batch["pair_text_index"]
    batch["pixel_values"], batch["pixel_mask"] = batch["pixel_values"][rows], batch["pixel_mask"][rows]
    repeated = model(**batch)
    torch.testing.assert_close(paired.logits, repeated.logits)
    torch.testing.assert_close(paired.loss, repeated.loss)


def test_unpaired_pictures_and_texts_are_an_error() -> None:
    model, batch = build(), pretraining_batch()
    del batch["pair_image_index"], batch["pair_text_index"]
    with pytest.raises(SohoError, match="4 pictures cannot be paired with 8 texts"):
        model(**batch)


def test_without_dictionary_mvm_goes_and_the_rest_stays() -> None:
    model, batch = build(use_dictionary=False), pretraining_batch()
    assert model.mvm_head is None
    assert not any("dictionary" in name for name in model.state_dict())
    output = model(**batch)
    output.loss.backward()
    assert set(output.loss_parts) == set(model.loss_counts(batch)) == {"mlm", "itm"}
    assert output.visual_indices is None
    assert model.health() == {}
    model.after_optimizer_step()


def test_reading_features_asks_the_dictionary_nothing() -> None:
    model, batch = build(visual_input="features").train(), pretraining_batch()
    output = model(**batch)
    assert output.visual_indices is None
    assert set(output.loss_parts) == set(model.loss_counts(batch)) == {"mlm", "itm"}
    assert model.health() == {}
    before = model.soho.visual_dictionary.codes.clone()  # type: ignore[union-attr]
    model.after_optimizer_step()
    assert torch.equal(model.soho.visual_dictionary.codes, before)  # type: ignore[union-attr]


def test_bf16_autocast_keeps_indices_dictionary_and_loss_in_order() -> None:
    model, batch = build().train(), pretraining_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    model.after_optimizer_step()
    dictionary = model.soho.visual_dictionary
    assert dictionary is not None
    assert output.loss.dtype == dictionary.codes.dtype == torch.float32
    assert output.loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_places_are_cls_then_the_marked_ones_in_order() -> None:
    read = torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    places = places_of(read)
    assert places[:, 0].tolist() == [0, 0, 0]
    assert places[0, :3].tolist() == [0, 2, 4]
    assert places[2].tolist() == [0, 1, 2, 4]
    assert places.shape == (3, 4)
    assert among(read, places)[2].tolist() == [False, True, True, True]


def test_rows_that_nothing_reads_are_left_out_of_the_last_layer_and_nothing_changes() -> None:
    model, batch = build().eval(), pretraining_batch()
    rows: list[int] = []
    last = model.soho.fusion.layers[-1]
    last.attention_output.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[1]))
    found = []
    for whole in (False, True):
        model.zero_grad()
        output = model(**batch, output_hidden_states=whole)  # whose last states are those of all positions
        output.loss.backward()
        found.append((output, gradients(model)))
    (few, few_gradients), (all_, all_gradients) = found
    assert rows[0] < rows[1] == output.hidden_states[-1].shape[1]
    for part, value in all_.loss_parts.items():
        torch.testing.assert_close(few.loss_parts[part], value, msg=part)
    torch.testing.assert_close(few.mlm_logits, all_.mlm_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(few.mvm_logits, all_.mvm_logits, rtol=1e-4, atol=1e-5)
    assert few.mvm_labels.tolist() == all_.mvm_labels.tolist()
    for name, gradient in all_gradients.items():
        torch.testing.assert_close(few_gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
