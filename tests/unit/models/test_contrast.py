"""The optional contrastive objective, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from soho.errors import SohoError
from soho.models import SohoConfig, SohoForImageTextRetrieval, SohoForPreTraining
from soho.models.contrast import ContrastHead, contrastive_loss, masked_mean
from tests.unit.models import tiny

BACKBONE = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
}


def tiny_config(**fields: float) -> SohoConfig:
    return SohoConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        mask_token_id=4,
        dictionary_size=8,
        visual_backbone=BACKBONE,
        **fields,
    )


def test_masked_mean_leaves_padding_out_and_survives_an_empty_row():
    values = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2.0], [0.0]]


def test_two_pictures_with_one_text_each():
    similarities = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    total, count = contrastive_loss(similarities, torch.tensor([0, 1]))
    # Each text finds its picture, and each picture its text, with probability 3 / 4.
    assert total.item() == pytest.approx(2 * math.log(4 / 3))
    assert count.item() == 2


def test_other_texts_of_the_same_picture_are_no_negatives():
    similarities = torch.tensor([[0.0, 50.0, 0.0], [0.0, 0.0, 0.0]])
    total, _ = contrastive_loss(similarities, torch.tensor([0, 0, 1]))
    # Text 0: to image 1/2, to text 1/2 against the one foreign text; its picture's better text 1 does not count.
    text_0 = 0.5 * (math.log(2) + math.log(2))
    # Text 2: to image 1/2; to text: among texts 0 and 1 of the other picture, both 0, and itself: 1/3.
    text_2 = 0.5 * (math.log(2) + math.log(3))
    assert total.item() == pytest.approx(text_0 + text_2, abs=1e-5)


def test_the_same_photograph_under_another_id_is_ignored():
    similarities = torch.tensor([[0.0, 9.0], [9.0, 0.0]], requires_grad=True)
    ignored = torch.ones(2, 2, dtype=torch.bool)  # the own pairs stay
    total, _ = contrastive_loss(similarities, torch.tensor([0, 1]), ignored)
    total.backward()
    assert total.item() == pytest.approx(0.0)
    assert torch.isfinite(similarities.grad).all()


def test_no_text_gives_a_finite_zero():
    total, count = contrastive_loss(torch.zeros(3, 0), torch.zeros(0, dtype=torch.long))
    assert total.item() == 0.0
    assert count.item() == 0.0


def test_similarities_are_scaled_cosines():
    head = ContrastHead(tiny_config())
    with torch.no_grad():
        for linear in (head.image, head.text):
            linear.weight.copy_(torch.eye(16))
            linear.bias.zero_()
    token = torch.zeros(1, 1, 16)
    token[..., 0] = 7.0
    other = torch.zeros(1, 1, 16)
    other[..., 0], other[..., 1] = 3.0, 4.0
    ones = torch.ones(1, 1)
    assert head(token, ones.bool(), other, ones).item() == pytest.approx(0.6 / 0.07, rel=1e-5)


def test_as_a_dual_encoder_both_maps_start_as_the_identity_and_the_picture_is_its_summary():
    head = ContrastHead(tiny.tiny_config(itc_pooling="dual_encoder", visual_summary=True, fusion_start=1))
    text = torch.randn(2, 3, 16)
    ones = torch.ones(2, 3)
    expected = torch.nn.functional.normalize(text.mean(1), dim=-1)
    torch.testing.assert_close(head.text_vectors(text, ones), expected)
    tokens = torch.randn(1, 3, 16)
    expected = torch.nn.functional.normalize(tokens[:, 0], dim=-1)
    torch.testing.assert_close(head.image_vectors(tokens, torch.ones(1, 3)), expected)


def test_the_dual_encoder_needs_a_summary():
    with pytest.raises(SohoError, match="itc_pooling='dual_encoder' needs visual_summary=true"):
        tiny_config(itc_pooling="dual_encoder")
    with pytest.raises(SohoError, match="itc_pooling='dual_encoder' needs fusion_start above 0"):
        tiny_config(itc_pooling="dual_encoder", visual_summary=True)


def test_the_dual_encoder_compares_what_goes_into_fusion():
    config = tiny.tiny_config(
        itc_weight=1.0, itc_pooling="dual_encoder", visual_summary=True, num_hidden_layers=2, fusion_start=1
    )
    model = SohoForImageTextRetrieval(config).eval()
    batch = tiny.picture_batch(3, 64, 64)
    text, mask = model.text_tokens(batch["input_ids"], batch["attention_mask"])
    visual, cells = model.image_tokens(batch["pixel_values"], batch["pixel_mask"])
    with torch.no_grad():
        assert model.soho.contrastive_states(visual, cells) is visual
        assert model.soho.contrastive_states(text, mask) is text
        embedded = model.soho.embeddings(batch["input_ids"])
        torch.testing.assert_close(text, model.soho.fusion.layers[0](embedded, mask.bool())[0])


def test_off_means_no_head_and_on_adds_a_part_with_a_known_count():
    assert SohoForPreTraining(tiny_config()).contrast_head is None
    model = SohoForPreTraining(tiny_config(itc_weight=2.0)).eval()
    batch = {
        "pixel_values": torch.randn(2, 3, 64, 128),
        "pixel_mask": torch.ones(2, 64, 128, dtype=torch.bool),
        "input_ids": torch.randint(5, 40, (8, 6)),
        "attention_mask": torch.ones(8, 6, dtype=torch.long),
        "pair_image_index": torch.arange(8) // 4,
        "labels": torch.full((8, 6), -100),
        "itm_labels": torch.tensor([1, 1, 0, 0] * 2),
        "mvm_draws": torch.rand(8),
        "photos": torch.tensor([1, 2]),
    }
    output = model(**batch)
    assert model.loss_counts(batch)["itc"] == 4
    parts = output.loss_parts
    expected = parts["itm"] + parts["mlm"] + parts["mvm"] + 2.0 * parts["itc"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    same_photo = model(**{**batch, "photos": torch.tensor([1, 1])})
    assert same_photo.loss_parts["itc"].item() == pytest.approx(0.0, abs=1e-6)


def test_retrieval_counts_aligned_pairs_and_ignores_what_the_batch_ignores():
    config = tiny_config(itc_weight=1.0)
    config.visual_input = "features"
    model = SohoForImageTextRetrieval(config).eval()
    batch = {
        "pixel_values": torch.randn(3, 3, 64, 64),
        "pixel_mask": torch.ones(3, 64, 64, dtype=torch.bool),
        "input_ids": torch.randint(5, 40, (3, 6)),
        "attention_mask": torch.ones(3, 6, dtype=torch.long),
        "pair_image_index": torch.arange(3).repeat_interleave(3),
        "pair_text_index": torch.arange(3).repeat(3),
        "labels": torch.tensor([1, -100, -100, -100, 1, -100, -100, -100, 1]),
    }
    assert model.loss_counts(batch)["itc"] == 3
    assert model(**batch).loss_parts["itc"].item() == pytest.approx(0.0, abs=1e-6)
    batch["labels"] = torch.eye(3, dtype=torch.long).flatten()
    assert model(**batch).loss_parts["itc"].item() > 0.1
