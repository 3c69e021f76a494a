"""Retrieval and question answering, and what holds for every model: results do not depend on batch mates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from soho.errors import SohoError
from soho.models import SohoForImageTextRetrieval, SohoForPreTraining, SohoForQuestionAnswering, SohoModel
from tests.unit.models.tiny import PAD, gradients, picture_batch, stirred, tiny_config

ANSWERS = ["yes", "no", "two", "red"]


def retrieval(**changes: Any) -> SohoForImageTextRetrieval:
    torch.manual_seed(0)
    return stirred(SohoForImageTextRetrieval(tiny_config(**changes)))


def answering(**changes: Any) -> SohoForQuestionAnswering:
    torch.manual_seed(0)
    return stirred(SohoForQuestionAnswering(tiny_config(answers=ANSWERS, **changes)))


def test_answers_start_at_one_in_their_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SohoForPreTraining(tiny_config()).save_pretrained(tmp_path)
    fresh = SohoForQuestionAnswering(tiny_config(answers=ANSWERS))
    onward = SohoForQuestionAnswering.from_pretrained(tmp_path, config=tiny_config(answers=ANSWERS))
    for model in (fresh, onward):
        biases = [module.bias for module in model.answer_head if isinstance(module, torch.nn.Linear)]
        assert not biases[0].any()
        torch.testing.assert_close(biases[1].detach(), torch.full((4,), -1.3862944))  # log(1 / 4)


def row_of(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {key: value[row : row + 1] for key, value in batch.items()}


@pytest.mark.parametrize("visual_input", ["dictionary", "features"])
def test_a_result_alone_equals_the_result_in_a_batch(visual_input: str) -> None:
    model, batch = retrieval(visual_input=visual_input).eval(), picture_batch(3)
    with torch.no_grad():
        together = model(**batch).logits
        tokens, mask = model.image_tokens(batch["pixel_values"], batch["pixel_mask"])
        for row in range(3):
            alone = row_of(batch, row)
            torch.testing.assert_close(model(**alone).logits[0], together[row], atol=1e-5, rtol=1e-5)
            one, one_mask = model.image_tokens(alone["pixel_values"], alone["pixel_mask"])
            torch.testing.assert_close(one[0], tokens[row], atol=1e-5, rtol=1e-5)
            assert torch.equal(one_mask[0], mask[row])
    assert together.std() > 0.05


def test_longer_padding_of_a_text_changes_nothing() -> None:
    model, batch = retrieval().eval(), picture_batch(3)
    longer = dict(batch)
    longer["input_ids"] = F.pad(batch["input_ids"], (0, 4), value=PAD)
    longer["attention_mask"] = F.pad(batch["attention_mask"], (0, 4), value=0)
    with torch.no_grad():
        torch.testing.assert_close(model(**longer).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_what_stands_in_padding_changes_nothing() -> None:
    model, batch = retrieval().eval(), picture_batch(3)
    other = dict(batch)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    other["input_ids"] = batch["input_ids"].masked_fill(padding, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(**other).logits, model(**batch).logits, atol=1e-6, rtol=1e-6)


def test_scoring_in_parts_equals_forward() -> None:
    model, batch = retrieval().eval(), picture_batch(3)
    with torch.no_grad():
        logits = model(**batch).logits
        visual, visual_mask = model.image_tokens(batch["pixel_values"], batch["pixel_mask"])
        text, text_mask = model.text_tokens(batch["input_ids"], batch["attention_mask"])
        scores = model.score_pairs(text, text_mask, visual, visual_mask)
    assert (visual.shape, text.shape, scores.shape) == ((3, 6, 16), (3, 6, 16), (3,))
    assert text_mask.dtype == visual_mask.dtype == torch.bool
    torch.testing.assert_close(scores, logits[:, 1] - logits[:, 0])


def test_retrieval_loss_and_metrics() -> None:
    model, batch = retrieval().eval(), picture_batch(3)
    logits = model(**batch).logits
    assert model(**batch).loss is None
    labels = torch.tensor([1, -100, 0])
    output = model(**batch, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))
    torch.testing.assert_close(output.loss_parts["match"], output.loss.detach())
    correct = int(logits[0].argmax() == 1) + int(logits[2].argmax() == 0)
    assert [value.item() for value in output.metrics["accuracy"]] == [correct, 2.0]
    assert model.loss_counts({"labels": labels})["match"].item() == 2.0


def test_questions_loss_metrics_and_ignored_rows() -> None:
    model, batch = answering().eval(), picture_batch(3)
    labels = torch.tensor([[1.0, 0.3, 0.0, 0.6], [-100.0] * 4, [0.0, 0.0, 0.9, 0.0]])
    output = model(**batch, labels=labels)
    logits = model(**batch).logits
    assert logits.shape == (3, 4)
    kept = [0, 2]
    expected = F.binary_cross_entropy_with_logits(logits[kept], labels[kept], reduction="sum") / 2
    torch.testing.assert_close(output.loss, expected)
    score = sum(labels[row, int(logits[row].argmax())].item() for row in kept)
    assert output.metrics["vqa_score"][0].item() == pytest.approx(score)
    assert output.metrics["vqa_score"][1].item() == 2.0
    assert model.loss_counts({"labels": labels})["answer"].item() == 2.0


def test_question_answering_needs_answers() -> None:
    with pytest.raises(SohoError, match=r"config\.answers"):
        SohoForQuestionAnswering(tiny_config())


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_two_halves_with_joined_denominators_are_the_whole(task: str) -> None:
    model = (retrieval() if task == "retrieval" else answering()).train()
    model.freeze_visual_backbone(True)
    batch = picture_batch(4)
    batch["labels"] = torch.tensor([1, 0, -100, 1])
    if task == "vqa":
        batch["labels"] = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
        batch["labels"][2] = -100.0
    whole = model(**batch)
    whole.loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    halves = [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 2), slice(2, 4))]
    counts = [model.loss_counts(half) for half in halves]
    joined = {name: counts[0][name] + counts[1][name] for name in counts[0]}
    outputs = [model(**half, loss_denominators=joined) for half in halves]
    total = outputs[0].loss + outputs[1].loss
    total.backward()
    torch.testing.assert_close(total, whole.loss)
    for name, value in expected.items():
        torch.testing.assert_close(gradients(model)[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_frozen_backbone_through_the_model() -> None:
    model, batch = answering().train(), picture_batch(2)
    model.freeze_visual_backbone(True)
    model.train()
    before = {name: value.clone() for name, value in model.visual_backbone().named_buffers()}
    model(**batch, labels=torch.rand(2, 4)).loss.backward()
    assert all(parameter.grad is None for parameter in model.visual_backbone().parameters())
    assert all(torch.equal(before[name], value) for name, value in model.visual_backbone().named_buffers())
    assert model.soho.visual_encoder.projection.weight.grad is not None


def test_evaluation_is_deterministic_and_leaves_no_trace() -> None:
    model, batch = retrieval(hidden_dropout_prob=0.5, visual_input="dictionary").eval(), picture_batch(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.after_optimizer_step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_trunk_reads_features_or_codes_as_configured() -> None:
    torch.manual_seed(0)
    model = SohoModel(tiny_config()).eval()
    batch = picture_batch(2)
    image = model.encode_image(batch["pixel_values"], batch["pixel_mask"])
    assert model.visual_dictionary is not None
    assert image.indices is not None
    assert torch.equal(image.tokens[image.mask], model.visual_dictionary.codes[image.indices[image.mask]])
    model.config.visual_input = "features"
    features = model.encode_image(batch["pixel_values"], batch["pixel_mask"])
    assert features.indices is None
    assert torch.equal(features.tokens, image.features)
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    assert output.last_hidden_state.shape == (2, 12, 16)
    assert len(output.hidden_states) == 3
    assert [tuple(w.shape) for w in output.attentions] == [(2, 2, 12, 12)] * 2
    # The tokens of padding cells cannot be read.
    assert output.attentions[0][1, :, :, 6:][..., ~image.mask[1]].abs().max() == 0


def test_position_reaches_the_visual_tokens() -> None:
    """Two equal cells of one picture differ after `place`, by their position alone."""
    torch.manual_seed(0)
    model = SohoForPreTraining(tiny_config()).eval()
    image = model.soho.encode_image(torch.zeros(1, 3, 128, 128))
    same = torch.zeros_like(image.tokens)
    placed = model.soho.place(same, image.position)[0]
    assert not torch.allclose(placed[0], placed[1])
    torch.testing.assert_close(placed, F.layer_norm(image.position[0], (16,)), atol=1e-5, rtol=0)
