"""Visual entailment: one fully connected layer on [CLS], three classes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from soho.data.schema import ENTAILMENT_LABELS
from soho.models import SohoForVisualEntailment
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES
from tests.unit.models.tiny import gradients, picture_batch, stirred, tiny_config


def entailment() -> SohoForVisualEntailment:
    torch.manual_seed(0)
    return stirred(SohoForVisualEntailment(tiny_config(visual_input="features")))


def test_the_classes_are_those_of_the_data() -> None:
    assert sorted(ENTAILMENT_CLASSES) == sorted(ENTAILMENT_LABELS)
    assert ENTAILMENT_CLASSES == ("entailment", "neutral", "contradiction")  # a saved head depends on the order


def test_a_fully_connected_layer_on_cls() -> None:
    model, batch = entailment().eval(), picture_batch(3)
    assert isinstance(model.entailment_head, nn.Linear)
    with torch.no_grad():
        hidden = model.soho(**batch).last_hidden_state[:, 0]
        expected = hidden @ model.entailment_head.weight.T + model.entailment_head.bias
        logits = model(**batch).logits
    assert logits.shape == (3, 3)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_result_alone_equals_the_result_in_a_batch() -> None:
    model, batch = entailment().eval(), picture_batch(3)
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            alone = model(**{key: value[row : row + 1] for key, value in batch.items()}).logits
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_loss_and_metrics() -> None:
    model, batch = entailment().eval(), picture_batch(3)
    logits = model(**batch).logits
    assert model(**batch).loss is None
    labels = torch.tensor([2, -100, 0])
    output = model(**batch, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))
    correct = int(logits[0].argmax() == 2) + int(logits[2].argmax() == 0)
    assert [value.item() for value in output.metrics["accuracy"]] == [correct, 2.0]
    assert model.loss_counts({"labels": labels}) == {"entailment": torch.tensor(2.0)}


def test_two_halves_with_joined_denominators_are_the_whole() -> None:
    model = entailment().train()
    model.freeze_visual_backbone(True)
    batch = picture_batch(4) | {"labels": torch.tensor([2, 0, -100, 1])}
    whole = model(**batch)
    whole.loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for rows in (slice(0, 2), slice(2, 4)):
        half = {key: value[rows] for key, value in batch.items()}
        total = total + model(**half, loss_denominators={"entailment": torch.tensor(3.0)}).loss
    total.backward()
    torch.testing.assert_close(total, whole.loss)
    for name, value in expected.items():
        torch.testing.assert_close(gradients(model)[name], value, atol=1e-6, rtol=1e-4, msg=name)
