"""Which unaligned pairs of a batch go through fusion."""

from __future__ import annotations

import pytest
import torch

from soho.errors import SohoError
from soho.models import SohoForImageTextRetrieval
from soho.models.hard_negatives import hard_pair_count, hard_pairs, pair_table
from tests.unit.models.tiny import picture_batch, tiny_config

IGNORE = -100


def test_the_most_similar_partners_of_both_sides() -> None:
    table = torch.tensor([[1, 0, 0], [0, 1, IGNORE], [0, IGNORE, 1]])
    similarities = torch.tensor([[9.0, 2.0, 3.0], [5.0, 9.0, 8.0], [4.0, 8.0, 9.0]])
    rows, texts, labels = hard_pairs(table, similarities, 1, draw=False)
    pairs = list(zip(rows.tolist(), texts.tolist(), labels.tolist()))
    assert pairs == [
        (0, 0, 1), (1, 1, 1), (2, 2, 1),
        (0, 2, 0), (1, 0, 0), (2, 0, 0),  # each picture's most similar foreign text
        (1, 0, 0), (0, 1, 0), (0, 2, 0),  # each text's most similar foreign picture
    ]  # fmt: skip
    assert hard_pair_count(table, 1) == 9


def test_fewer_candidates_than_wanted_and_fillers() -> None:
    # Picture 1 is a filler: nothing of it is aligned, and nothing is to be read against it.
    table = torch.tensor([[1, IGNORE, 0], [IGNORE, IGNORE, IGNORE], [0, IGNORE, 1]])
    rows, texts, labels = hard_pairs(table, torch.zeros(3, 3), 5, draw=True)
    assert sorted(zip(rows.tolist(), texts.tolist(), labels.tolist())) == [
        (0, 0, 1), (0, 2, 0), (0, 2, 0), (2, 0, 0), (2, 0, 0), (2, 2, 1),
    ]  # fmt: skip
    assert hard_pair_count(table, 5) == len(rows)


def test_partners_are_drawn_in_proportion_to_their_softmax() -> None:
    table = torch.zeros(4000, 3, dtype=torch.long)
    table[:, 0] = 1
    similarities = torch.tensor([[0.0, 1.0, 0.0]]).expand(4000, 3)
    torch.manual_seed(0)
    rows, texts, _ = hard_pairs(table, similarities, 1, draw=True)
    drawn = texts[4000:8000]  # one foreign text per picture
    share = (drawn == 1).float().mean()
    assert share == pytest.approx(torch.e / (1 + torch.e), abs=0.03)
    assert len(rows) == hard_pair_count(table, 1)


def test_a_table_of_pairs() -> None:
    table = pair_table(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([1, 0]), 2, 3, IGNORE)
    assert table.tolist() == [[IGNORE, 1, IGNORE], [0, IGNORE, IGNORE]]


@pytest.mark.parametrize("pooling", ["embeddings", "fusion"])
def test_the_loss_of_a_grid_counts_the_chosen_pairs(pooling: str) -> None:
    config = tiny_config(itc_weight=1.0, match_hard_negatives=1, itc_pooling=pooling, visual_input="features")
    model = SohoForImageTextRetrieval(config).train()
    batch = picture_batch(3)
    grid = {
        "pair_image_index": torch.arange(3).repeat_interleave(3),
        "pair_text_index": torch.arange(3).repeat(3),
        "labels": torch.eye(3, dtype=torch.long).flatten(),
    }
    inputs = {**{key: batch[key] for key in ("pixel_values", "pixel_mask", "input_ids", "attention_mask")}, **grid}
    output = model(**inputs)
    assert model.loss_counts(inputs) == {"match": 9.0, "itc": 3.0}
    assert output.logits.shape == (9, 2)
    assert output.metrics["accuracy"][1] == 9
    output.loss.backward()
    assert model.contrast_head.text.weight.grad.abs().sum() > 0
    # Without labels every pair is scored, whatever training does.
    inputs.pop("labels")
    assert model.eval()(**inputs).logits.shape == (9, 2)


def test_fusion_is_trained_by_itself_and_the_similarity_only_added() -> None:
    fields = {"itc_weight": 1.0, "match_hard_negatives": 1, "visual_input": "features"}
    batch = picture_batch(3)
    inputs = {key: batch[key] for key in ("pixel_values", "pixel_mask", "input_ids", "attention_mask")}
    inputs |= {"pair_image_index": torch.arange(3).repeat_interleave(3), "pair_text_index": torch.arange(3).repeat(3)}
    inputs["labels"] = torch.eye(3, dtype=torch.long).flatten()
    plain = SohoForImageTextRetrieval(tiny_config(**fields)).eval()
    added = SohoForImageTextRetrieval(tiny_config(**fields, match_adds_contrast=True)).eval()
    added.load_state_dict(plain.state_dict(), strict=False)
    outputs = [model(**inputs) for model in (plain, added)]
    for output in outputs:
        output.loss.backward()
    assert added.loss_counts(inputs) == {"match": 9.0, "share": 9.0, "itc": 3.0}
    torch.testing.assert_close(outputs[1].loss_parts["match"], outputs[0].loss_parts["match"])
    assert outputs[1].metrics["fused_accuracy"] == outputs[0].metrics["accuracy"]
    # Whatever both have gets the same gradient; the share gets the one that is new.
    own = dict(added.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(own.pop(name).grad, parameter.grad)
    assert own["match_contrast.neutral"].grad.abs() > 0
    difference = outputs[1].logits - outputs[0].logits
    assert difference[:, 0].abs().max() == 0
    assert difference[:, 1].std() > 0


def test_hard_negatives_need_the_contrastive_head() -> None:
    with pytest.raises(SohoError, match="match_hard_negatives=1 needs itc_weight above 0"):
        tiny_config(match_hard_negatives=1)
    with pytest.raises(SohoError, match="match_hard_negatives=-1 must be a whole number"):
        tiny_config(match_hard_negatives=-1, itc_weight=1.0)
    with pytest.raises(SohoError, match="itc_pooling='cls' is not known"):
        tiny_config(itc_pooling="cls")
