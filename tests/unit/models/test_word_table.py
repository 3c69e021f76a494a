"""The word table's gradient in pre-training: that of the look-ups and that of the decoder, made once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soho.models import SohoForPreTraining, modeling_pretraining
from soho.models.losses import IGNORE
from soho.models.word_table import look_up
from tests.unit.models.released import released_model
from tests.unit.models.tiny import gradients, pretraining_batch, stirred, tiny_config

WORDS = "soho.embeddings.word_embeddings.weight"


def build(kind: str) -> Any:
    torch.manual_seed(0)
    model = SohoForPreTraining(tiny_config()) if kind == "paper" else released_model("pretraining")
    return stirred(model).eval()


def by_autograd(embedding: nn.Embedding, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What `look_up` stands for."""
    return embedding(ids), embedding.weight


def test_by_hand() -> None:
    embedding = nn.Embedding(4, 2, padding_idx=0)
    embedding.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    rows, table = look_up(embedding, torch.tensor([2, 0, 2]))
    assert rows.tolist() == [[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]
    # d/dtable of x @ table.T is x in every row; each looked-up row adds its own 1, the padding row nothing.
    (rows.sum() + (torch.tensor([[10.0, 20.0]]) @ table.t()).sum()).backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.tolist() == [[10.0, 20.0], [10.0, 20.0], [12.0, 22.0], [10.0, 20.0]]


def test_either_use_alone() -> None:
    embedding = nn.Embedding(3, 2)
    rows, table = look_up(embedding, torch.tensor([1]))
    rows.sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    embedding.weight.grad = None
    _, table = look_up(embedding, torch.tensor([1]))
    table.sum().backward()  # its gradient repeats one number without memory of its own
    assert embedding.weight.grad.tolist() == [[1.0, 1.0]] * 3
    embedding.weight.grad = None
    rows, table = look_up(embedding, torch.tensor([1]))
    (rows.sum() + table.sum()).backward()
    assert embedding.weight.grad.tolist() == [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["paper", "released"])
def test_gradients_are_those_of_autograd(kind: str, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = build(kind), []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(modeling_pretraining, "look_up", by_autograd)
        model.zero_grad()
        for seed in (0, 1):  # two micro-batches
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = model(**pretraining_batch(seed=seed)).loss
            loss.backward()
        found.append(gradients(model))
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert ours[WORDS].abs().sum() > 0


def test_without_a_masked_word(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pretraining_batch()
    batch["labels"] = torch.full_like(batch["labels"], IGNORE)
    model = build("paper")
    model(**batch).loss.backward()
    ours = gradients(model)[WORDS]
    monkeypatch.setattr(modeling_pretraining, "look_up", by_autograd)
    model.zero_grad()
    model(**batch).loss.backward()
    torch.testing.assert_close(ours, gradients(model)[WORDS])


def test_a_fixed_table_gets_no_gradient() -> None:
    model = build("paper")
    model.soho.embeddings.word_embeddings.weight.requires_grad_(False)
    model(**pretraining_batch()).loss.backward()
    assert model.soho.embeddings.word_embeddings.weight.grad is None
