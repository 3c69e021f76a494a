"""The release's order of work gives the numbers of this project's classes for its wiring: only the cost differs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from benchmarks.inference import our_side, release_side, vqa_batch
from benchmarks.options import Options
from benchmarks.release_order import CheckpointedBlock, OneHotDictionary, ReleaseOrderPreTraining, padded_batch
from benchmarks.subjects import TINY, pretraining_batch
from benchmarks.timing import Clock
from soho.models import SohoForQuestionAnswering, SohoReleasedForPreTraining
from soho.models.released.dictionary import ReleasedDictionary

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "answer_head_dropout": 0.0}


@pytest.fixture
def pair() -> tuple[SohoReleasedForPreTraining, ReleaseOrderPreTraining]:
    config = TINY.config(released=True, mvm_mask_probability=0.5, **NO_DROPOUT)
    torch.manual_seed(0)
    ours = SohoReleasedForPreTraining(config)
    theirs = ReleaseOrderPreTraining(config)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(), theirs.train().arrange()


def batch() -> dict[str, Tensor]:
    found = pretraining_batch(2, 128, 192, TINY.config().vocab_size)
    # The first draw also says which cell is hidden: this one is the last of the grid of 2 x 3.
    found["mvm_draws"] = torch.tensor([0.49, 0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.4])
    return found


def test_losses_gradients_and_codes_agree(
    pair: tuple[SohoReleasedForPreTraining, ReleaseOrderPreTraining],
) -> None:
    ours, theirs = pair
    ordinary, ordered = ours(**batch()), theirs(**padded_batch(batch()))
    assert ordinary.loss_parts.keys() == ordered.loss_parts.keys() == {"itm", "mlm", "mvm"}
    assert ordinary.loss_parts["mvm"] > 0
    for name, value in ordinary.loss_parts.items():
        torch.testing.assert_close(ordered.loss_parts[name], value, rtol=1e-4, atol=1e-5)
    ordinary.loss.backward()
    ordered.loss.backward()
    words = [model.soho.embeddings.word_embeddings.weight.grad for model in (ours, theirs)]
    torch.testing.assert_close(words[1], words[0], rtol=1e-3, atol=1e-5)
    cnn = [model.soho.visual_encoder.projection.weight.grad for model in (ours, theirs)]
    torch.testing.assert_close(cnn[1], cnn[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        theirs.soho.visual_dictionary.codes, ours.soho.visual_dictionary.codes, rtol=1e-4, atol=1e-5
    )


def test_the_order_is_the_dear_one(pair: tuple[SohoReleasedForPreTraining, ReleaseOrderPreTraining]) -> None:
    _, theirs = pair
    assert isinstance(theirs.soho.visual_dictionary, OneHotDictionary)
    blocks = [part for part in theirs.visual_backbone().modules() if isinstance(part, CheckpointedBlock)]
    assert len(blocks) == sum(TINY.backbone["depths"])
    assert all(layer.gradient_checkpointing for layer in theirs.soho.fusion.layers)
    seen: list[tuple[int, ...]] = []
    theirs.mlm_head.register_forward_hook(lambda _m, _i, output: seen.append(tuple(output.shape)))
    theirs.soho.visual_encoder.projection.register_forward_hook(lambda _m, _i, output: seen.append(tuple(output.shape)))
    theirs(**padded_batch(batch()))
    assert seen == [(8, 32, 2, 3), (8, 16 + 6, 200)]  # a map a caption; words and cells onto the vocabulary


def test_one_hot_dictionary_moves_as_the_plain_one() -> None:
    torch.manual_seed(0)
    plain, one_hot = ReleasedDictionary(8, 4, 0.4, 1e-5), OneHotDictionary(8, 4, 0.4, 1e-5)
    one_hot.load_state_dict(copy.deepcopy(plain.state_dict()))
    for _ in range(3):
        features = torch.randn(2, 6, 4)
        left, right = plain.train()(features), one_hot.train()(features)
        assert torch.equal(left.indices, right.indices)
        torch.testing.assert_close(left.embeddings, right.embeddings, rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(one_hot.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("released", [True, False])
def test_both_inference_sides_give_the_models_own_answers(released: bool) -> None:
    torch.manual_seed(0)
    words = ["a", "b", "c"]
    model = SohoForQuestionAnswering(TINY.config(released=released, visual_input="features", answers=words)).eval()
    questions = vqa_batch(2, Options(quick=True), TINY.config().vocab_size)
    with torch.no_grad():
        expected = model(**questions).logits
    clock = Clock(torch.device("cpu"))
    for side in (our_side, release_side):
        clock.start()
        torch.testing.assert_close(side(model, questions)(clock), expected, rtol=1e-4, atol=1e-5)
        assert list(clock.laps) == ["cnn", "fusion", "head"]
