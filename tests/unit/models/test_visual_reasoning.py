"""Visual reasoning: two passes, one classifier; neither picture depends on the other's shape or on batch mates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from soho.models import SohoForVisualReasoning
from tests.unit.models.tiny import gradients, picture_batch, second_pictures, stirred, tiny_config


def reasoning(**changes: Any) -> SohoForVisualReasoning:
    torch.manual_seed(0)
    return stirred(SohoForVisualReasoning(tiny_config(visual_input="features", **changes)))


def pair_batch(count: int) -> dict[str, Tensor]:
    return picture_batch(count) | second_pictures(count)


def rows_of(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {key: value[rows] for key, value in batch.items()}


def swapped(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    other = dict(batch)
    for name in ("pixel_values", "pixel_mask"):
        other[name], other[f"{name}_2"] = batch[f"{name}_2"], batch[name]
    return other


def test_the_classifier_reads_the_cls_rows_of_two_passes_side_by_side() -> None:
    model, batch = reasoning().eval(), pair_batch(3)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = model(**batch).logits
        left = model.soho(batch["pixel_values"], pixel_mask=batch["pixel_mask"], **text)
        right = model.soho(batch["pixel_values_2"], pixel_mask=batch["pixel_mask_2"], **text)
        vector = torch.cat((left.last_hidden_state[:, 0], right.last_hidden_state[:, 0]), dim=1)
        first, _, norm, _, last = model.reasoning_head
        by_hand = F.linear(vector, first.weight, first.bias)
        by_hand = F.layer_norm(F.gelu(by_hand), (32,), norm.weight, norm.bias, 1e-12)
        by_hand = F.linear(by_hand, last.weight, last.bias)
    assert first.weight.shape == (32, 32)  # 2 x 16 channels in, width 2 x 16
    assert logits.shape == (3, 2)
    torch.testing.assert_close(logits, by_hand, atol=1e-5, rtol=1e-5)


def test_left_and_right_are_told_apart() -> None:
    model, batch = reasoning().eval(), pair_batch(2)
    with torch.no_grad():
        difference = (model(**batch).logits - model(**swapped(batch)).logits).abs().min()
    assert difference > 1e-3


def test_a_result_alone_equals_the_result_in_a_batch() -> None:
    model, batch = reasoning().eval(), pair_batch(3)
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            alone = model(**rows_of(batch, slice(row, row + 1))).logits
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)
    assert together.std() > 0.05


def test_one_picture_with_several_sentences() -> None:
    model, batch = reasoning().eval(), pair_batch(2)
    index = {"pair_image_index": torch.tensor([1, 0, 1]), "pair_text_index": torch.tensor([0, 0, 1])}
    with torch.no_grad():
        logits = model(**batch, **index).logits
        pictures = ("pixel_values", "pixel_mask", "pixel_values_2", "pixel_mask_2")
        for place, (image, text) in enumerate(((1, 0), (0, 0), (1, 1))):
            one = {key: value[[image if key in pictures else text]] for key, value in batch.items()}
            torch.testing.assert_close(model(**one).logits[0], logits[place], atol=1e-5, rtol=1e-5)


def test_loss_and_metrics() -> None:
    model, batch = reasoning().eval(), pair_batch(3)
    logits = model(**batch).logits
    assert model(**batch).loss is None
    labels = torch.tensor([1, -100, 0])
    output = model(**batch, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))
    torch.testing.assert_close(output.loss_parts["reasoning"], output.loss.detach())
    correct = int(logits[0].argmax() == 1) + int(logits[2].argmax() == 0)
    assert [value.item() for value in output.metrics["accuracy"]] == [correct, 2.0]
    assert model.loss_counts({"labels": labels}) == {"reasoning": torch.tensor(2.0)}


def test_two_halves_with_joined_denominators_are_the_whole() -> None:
    model = reasoning().train()
    model.freeze_visual_backbone(True)
    batch = pair_batch(4) | {"labels": torch.tensor([1, 0, -100, 1])}
    whole = model(**batch)
    whole.loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    halves = [rows_of(batch, rows) for rows in (slice(0, 2), slice(2, 4))]
    counts = {"reasoning": sum((model.loss_counts(half)["reasoning"] for half in halves), torch.tensor(0.0))}
    total = sum((model(**half, loss_denominators=counts).loss for half in halves), torch.tensor(0.0))
    total.backward()
    torch.testing.assert_close(total, whole.loss)
    for name, value in expected.items():
        torch.testing.assert_close(gradients(model)[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_a_relation_between_the_pictures_can_be_learned() -> None:
    """Exclusive or over the two pictures: the loss of a classifier without a hidden layer stays at ln 2 = 0.69."""
    model = reasoning().train()
    grey, noise = torch.full((3, 64, 64), -2.0), torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    cases = [(grey, grey, 0), (grey, noise, 1), (noise, grey, 1), (noise, noise, 0)]
    batch = {
        "pixel_values": torch.stack([left for left, _, _ in cases]),
        "pixel_values_2": torch.stack([right for _, right, _ in cases]),
        "input_ids": picture_batch(1)["input_ids"].expand(4, -1),
        "labels": torch.tensor([label for _, _, label in cases]),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_attentions_of_both_passes() -> None:
    model, batch = reasoning().eval(), pair_batch(2)
    with torch.no_grad():
        output = model(**batch, output_attentions=True, output_hidden_states=True)
    # Two layers a pass; 6 text tokens, 2 x 3 and 3 x 1 cells; the last layer for [CLS] alone, as everywhere.
    assert [weights.shape[-1] for weights in output.attentions] == [12, 12, 9, 9]
    assert len(output.hidden_states) == 6


@pytest.mark.parametrize("labels", [None, torch.tensor([1, 0])])
def test_masks_may_be_left_out(labels: Tensor | None) -> None:
    model, batch = reasoning().eval(), pair_batch(2)
    whole = {name: value for name, value in batch.items() if "mask" not in name}
    full = {**whole, "pixel_mask": torch.ones(2, 128, 192).bool(), "pixel_mask_2": torch.ones(2, 192, 64).bool()}
    full["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(model(**whole, labels=labels).logits, model(**full, labels=labels).logits)
