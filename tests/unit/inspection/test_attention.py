"""Word-to-region maps: hand-made tensors, a hand-made module, finite differences, every task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from soho.errors import SohoError
from soho.inspection.attention import WordMaps, word_maps
from soho.inspection.attention_maps import attention_rollout, attention_rows, cell_map, gradient_rows
from soho.inspection.heat import FADED, REST, overlay, spread
from soho.inspection.text_words import text_words
from soho.models import (
    SohoForImageTextRetrieval,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoPreTrainedModel,
    fusion,
)
from soho.pipelines import SohoPipeline
from tests.unit.inspection.tiny_pipeline import ANSWERS, tiny_pipeline, tiny_processor
from tests.unit.models.released import released_config
from tests.unit.models.tiny import stirred

TEXT = "a red ball and two green stars"
WIDE, TALL = Image.new("RGB", (192, 128), (200, 40, 40)), Image.new("RGB", (128, 180), (40, 40, 200))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# -- Arithmetic -----------------------------------------------------------------------------------------------------


def hand_made() -> Tensor:
    """Two heads over two tokens of text and 2 x 2 cells; the row of token 1 is the interesting one."""
    weights = torch.zeros(2, 6, 6)
    weights[:, :, 0] = 1.0
    weights[0, 1] = torch.tensor([0.2, 0.2, 0.1, 0.2, 0.3, 0.0])
    weights[1, 1] = torch.tensor([0.0, 0.0, 0.5, 0.2, 0.1, 0.2])
    return weights


def test_a_map_of_a_hand_made_tensor() -> None:
    valid = torch.tensor([[True, True], [True, False]])
    rows = attention_rows(hand_made())
    assert cell_map(rows, [1], 2, valid).numpy() == pytest.approx(np.array([[0.3, 0.2], [0.2, 0.0]]))
    # A word of two pieces is the mean of its rows; row 0 looks at no cell.
    assert cell_map(rows, [0, 1], 2, valid).numpy() == pytest.approx(np.array([[0.15, 0.1], [0.1, 0.0]]))


def test_a_gradient_map_of_a_hand_made_tensor() -> None:
    weights = hand_made().requires_grad_()
    factors = torch.zeros(2, 6, 6)
    factors[0, 1] = torch.tensor([9.0, 9.0, 4.0, -7.0, 1.0, 1.0])
    factors[1, 1] = torch.tensor([9.0, 9.0, 2.0, 1.0, -5.0, 1.0])
    (gradient,) = torch.autograd.grad((weights * factors).sum(), weights)
    found = cell_map(gradient_rows(weights.detach(), gradient), [1], 2, torch.ones(2, 2, dtype=torch.bool))
    # (0.1 * 4 + 0.5 * 2) / 2, (0 + 0.2 * 1) / 2, (0.3 * 1 + 0) / 2, (0 + 0.2 * 1) / 2
    assert found.numpy() == pytest.approx(np.array([[0.7, 0.1], [0.15, 0.1]]))


def test_rollout_by_hand() -> None:
    first, second = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    # Halves with the identity: [[.75 .25] [0 1]] and [[.5 .5] [.5 .5]].
    assert attention_rollout([first]).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert attention_rollout([first, second]).tolist() == [[0.375, 0.625], [0.375, 0.625]]


def test_a_gradient_reaches_the_weights_that_fusion_returns() -> None:
    query, key, value = (torch.randn(1, 2, length, 4) for length in (3, 5, 5))
    mixed, weights = fusion.plain_attention(query.requires_grad_(), key, value, torch.ones(1, 5, dtype=torch.bool), 0.0)
    (gradient,) = torch.autograd.grad(mixed[0, 1, 2].sum(), weights)
    assert gradient[0, 1, 2].tolist() == pytest.approx(value[0, 1].sum(-1).tolist(), abs=1e-6)
    gradient[0, 1, 2] = 0
    assert not gradient.any()


# -- Words ----------------------------------------------------------------------------------------------------------


def test_words_of_several_pieces() -> None:
    processor = tiny_processor()
    words = text_words(processor, "Red starball, and a ball.")
    assert [word.word for word in words] == ["Red", "starball", "and", "a", "ball"]
    ids = processor.encode("Red starball, and a ball.")
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    for word in words:
        assert "".join(piece.removeprefix("##") for piece in word.pieces) == word.word.lower()
        assert [tokens[row] for row in word.rows] == list(word.pieces)
    assert len(words[1].pieces) > 1


def test_words_that_are_asked_for() -> None:
    processor = tiny_processor()
    one, two = text_words(processor, "a red ball on a red ball", ["BALL", "a  red"])
    assert one.pieces == ("ball", "ball")
    assert two.rows == (1, 2, one.rows[1] - 2, one.rows[1] - 1)
    assert one.rows[0] == 3
    assert two.pieces == ("a", "red", "a", "red")
    sentence = "the word 'dog' does not occur in the text 'a red ball, a star'; its words are a, red, ball, star"
    with pytest.raises(SohoError) as caught:
        text_words(processor, "a red ball, a star", ["dog"])
    assert str(caught.value) == sentence
    with pytest.raises(SohoError, match="the word 'bal' does not occur"):
        text_words(processor, "a red ball", ["bal"])
    with pytest.raises(SohoError, match="the word 'star' stands beyond the 12 tokens that the model reads"):
        text_words(processor, "a red ball and a red ball and a red ball and a star", ["star"])
    with pytest.raises(SohoError, match="has no word to look from"):
        text_words(processor, "?!")


# -- Models ---------------------------------------------------------------------------------------------------------


class HandMade(nn.Module):
    """A fusion of one layer whose [CLS] is a known sum over its attention weights."""

    def __init__(self, weights: Tensor, factors: Tensor, width: int) -> None:
        super().__init__()
        self.weights, self.factors, self.width = weights, factors, width

    def read_text(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden

    def forward(self, hidden: Tensor, *_: Any) -> tuple[Tensor, None, tuple[Tensor, ...]]:
        weights = self.weights + 0.0 * hidden.sum()
        first = (weights * self.factors).sum() * torch.eye(self.width)[0]
        return first.reshape(1, 1, -1), None, (weights * 1.0, weights)


def test_a_model_whose_maps_are_known() -> None:
    pipeline = tiny_pipeline(SohoForVisualEntailment, num_hidden_layers=2)
    length = len(pipeline.processor.encode("a red ball"))
    total = length + 6
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(1, 2, total, total, generator=generator).softmax(-1)
    factors = torch.randn(1, 2, total, total, generator=generator)
    model = pipeline.model
    model.soho.fusion = HandMade(weights, factors, 16)
    with torch.no_grad():
        # entailment = 3 * first channel, the two others far below: its log-odds grow 3 times as fast.
        model.entailment_head.weight.zero_()
        model.entailment_head.weight[0, 0] = 3.0
        model.entailment_head.bias.copy_(torch.tensor([0.0, -50.0, -50.0]))
    maps = word_maps(pipeline, WIDE, "a red ball", ["red"], target="entailment", layer=2)
    row = text_words(pipeline.processor, "a red ball", ["red"])[0].rows
    assert len(row) == 1
    cells = slice(length, total)
    attention = weights[0, :, row[0], cells].mean(0).reshape(2, 3)
    gradient = (weights * 3 * factors.clamp(min=0))[0, :, row[0], cells].mean(0).reshape(2, 3)
    assert maps.attention[0] == pytest.approx(attention.numpy(), abs=1e-6)
    assert maps.gradient[0] == pytest.approx(gradient.numpy(), abs=1e-5)
    whole = (weights * 3 * factors.clamp(min=0))[0, :, 0, cells].mean(0).reshape(2, 3)
    assert maps.whole_gradient == pytest.approx(whole.numpy(), abs=1e-5)
    against = word_maps(pipeline, WIDE, "a red ball", ["red"], target="entailment", layer=1)
    assert not against.gradient.any()  # the output does not read that layer


def test_the_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline(SohoForImageTextRetrieval)
    picture, words = noise(192, 128), ["ball"]
    maps = word_maps(pipeline, picture, TEXT, words)
    assert (maps.layer, maps.whole_layer, maps.layers) == (2, 3, 3)
    (row,) = text_words(pipeline.processor, TEXT, words)[0].rows
    batch = pipeline.processor(images=picture, text=[TEXT])
    length, calls, real = batch["input_ids"].shape[1], [0], fusion.plain_attention
    change: dict[str, Any] = {}

    def nudged(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
        mixed, weights = real(query, key, value, mask, dropout)
        if calls[0] % 3 == 1:  # the second layer
            head, cell, by = change["head"], change["cell"], change["by"]
            mixed = mixed.clone()
            mixed[0, head, row] += by * value[0, head, length + cell]
            change["weight"] = float(weights[0, head, row, length + cell])
        calls[0] += 1
        return mixed, weights

    def score(head: int, cell: int, by: float) -> float:
        change.update(head=head, cell=cell, by=by)
        with torch.no_grad():
            logits = pipeline.model(**batch).logits[0].double()
        return float(logits[1] - logits[0])

    monkeypatch.setattr(fusion, "plain_attention", nudged)
    expected = np.zeros(6)
    for cell in range(6):
        for head in range(2):
            slope = (score(head, cell, 0.02) - score(head, cell, -0.02)) / 0.04
            expected[cell] += change["weight"] * max(slope, 0.0) / 2
    assert expected.max() > 1e-4
    assert maps.gradient[0].reshape(-1) == pytest.approx(expected, rel=0.02, abs=1e-5)


TASKS: list[tuple[type[SohoPreTrainedModel], str]] = [
    (SohoForImageTextRetrieval, "match"),
    (SohoForQuestionAnswering, "answer"),
    (SohoForVisualEntailment, "entails"),
    (SohoForVisualReasoning, "compare"),
]


@pytest.mark.parametrize(("kind", "verb"), TASKS)
@pytest.mark.parametrize("changes", [{}, {"fusion_start": 1, "visual_summary": True}, {"num_hidden_layers": 1}])
def test_every_task(kind: type[SohoPreTrainedModel], verb: str, changes: dict[str, Any]) -> None:
    pipeline = tiny_pipeline(kind, **changes)
    second = TALL if verb == "compare" else None
    maps = word_maps(pipeline, WIDE, TEXT, second=second)
    said = getattr(pipeline, verb)(WIDE, *([TALL] if second else []), TEXT)
    assert maps.target in {one.text for one in said} | {"match"}
    assert maps.probability == pytest.approx(max(one.probability for one in said), abs=1e-5)
    sides: list[tuple[WordMaps | None, tuple[int, int]]] = [(maps, (2, 3))]
    sides += [(maps.second, (3, 2))] if second else []
    for side, grid in sides:
        assert side is not None
        assert side.grid == grid
        assert side.words == ("a", "red", "ball", "and", "two", "green", "stars")
        assert side.attention.shape == side.gradient.shape == (7, *grid)
        assert side.valid.all()
        assert ((side.attention.sum((1, 2)) > 0) & (side.attention.sum((1, 2)) < 1)).all()
        assert side.whole_gradient.any()
        if changes.get("num_hidden_layers") == 1:
            assert not side.gradient.any()
            assert "reads only the [CLS] row of the last layer" in side.notes[0]
        else:
            assert side.gradient.any((1, 2)).all()
            assert side.notes == ()
    model_attention = pipeline.model.trunk(
        **pipeline.processor(images=WIDE, text=[TEXT]), output_attentions=True
    ).attentions[maps.layer - 1 - changes.get("fusion_start", 0)]
    row = text_words(pipeline.processor, TEXT, ["red"])[0].rows[0]
    cells = model_attention[0, :, row, -6:].mean(0).reshape(2, 3)
    assert maps.attention[1] == pytest.approx(cells.detach().numpy(), abs=1e-6)


def test_the_wiring_of_the_release() -> None:
    torch.manual_seed(0)
    processor = tiny_processor()
    config = released_config(vocab_size=len(processor.tokenizer), visual_input="features", answers=ANSWERS)
    maps = word_maps(SohoPipeline(stirred(SohoForQuestionAnswering(config)), processor), noise(150, 128), TEXT)
    assert maps.grid == (2, 3)
    assert maps.attention.all()
    assert maps.gradient.any()
    assert (maps.layer, maps.whole_layer) == (1, 2)


def test_padding_is_zero() -> None:
    pipeline = tiny_pipeline(SohoForImageTextRetrieval)
    pipeline.processor.image_processor.size_divisor = 128
    maps = word_maps(pipeline, WIDE, TEXT)
    assert maps.valid.tolist() == [[True, True, True, False]] * 2
    assert maps.attention.shape == (7, 2, 4)
    assert not maps.attention[:, :, 3].any()
    assert not maps.gradient[:, :, 3].any()
    assert maps.attention[:, :, :3].all()
    assert maps.read_size == (192, 128)


def test_layers_and_rollout() -> None:
    pipeline = tiny_pipeline(SohoForImageTextRetrieval, num_hidden_layers=4, fusion_start=1)
    usual = word_maps(pipeline, noise(192, 128), TEXT, ["ball"])
    assert (usual.layer, usual.whole_layer, usual.layers) == (3, 4, 4)
    named = word_maps(pipeline, noise(192, 128), TEXT, ["ball"], layer=3)
    assert np.array_equal(named.attention, usual.attention)
    last = word_maps(pipeline, noise(192, 128), TEXT, ["ball"], layer=4)
    assert not last.gradient.any()
    assert np.array_equal(last.whole_attention, usual.whole_attention)
    rolled = word_maps(pipeline, noise(192, 128), TEXT, ["ball"], rollout=True)
    assert not np.allclose(rolled.attention, usual.attention, atol=1e-4)
    assert np.array_equal(rolled.gradient, usual.gradient)
    with pytest.raises(
        SohoError, match="layer 1 does not read the picture; expected 2 to 4; layers 1 to 1 read the te"
    ):
        word_maps(pipeline, WIDE, TEXT, layer=1)
    with pytest.raises(SohoError, match="layer 5 does not read the picture; expected 2 to 4"):
        word_maps(pipeline, WIDE, TEXT, layer=5)


def test_a_score_with_a_similarity_and_inference_mode() -> None:
    pipeline = tiny_pipeline(SohoForImageTextRetrieval, itc_weight=1.0, match_adds_contrast=True)
    with torch.inference_mode():  # as a server may
        maps = word_maps(pipeline, WIDE, TEXT)
    assert maps.gradient.any()
    assert maps.probability == pytest.approx(pipeline.match(WIDE, TEXT)[0].probability, abs=1e-6)
    assert "adds a contrastive similarity" in maps.notes[0]
    for parameter in pipeline.model.parameters():
        parameter.requires_grad_(False)
    assert np.array_equal(word_maps(pipeline, WIDE, TEXT).gradient, maps.gradient)
    assert all(parameter.grad is None for parameter in pipeline.model.parameters())


def test_targets() -> None:
    pipeline = tiny_pipeline(SohoForQuestionAnswering)
    found = {target: word_maps(pipeline, WIDE, TEXT, target=target).gradient for target in ("yes", "no")}
    assert not np.allclose(found["yes"], found["no"])
    with pytest.raises(SohoError, match=r"the model has no output 'yess'; did you mean yes\?"):
        word_maps(pipeline, WIDE, TEXT, target="yess")
    match = tiny_pipeline(SohoForImageTextRetrieval)
    shares = [word_maps(match, WIDE, TEXT, target=target).probability for target in ("match", "no match")]
    assert sum(shares) == pytest.approx(1.0)


def test_what_cannot_be_looked_at() -> None:
    pipeline = tiny_pipeline(SohoForImageTextRetrieval)
    with pytest.raises(SohoError, match="this model reads one picture; leave the second one out"):
        word_maps(pipeline, WIDE, TEXT, second=WIDE)
    with pytest.raises(SohoError, match="judges sentences about two pictures; give the right picture too"):
        word_maps(tiny_pipeline(SohoForVisualReasoning), WIDE, TEXT)
    with pytest.raises(SohoError, match=r"gone\.jpg"):
        word_maps(pipeline, "gone.jpg", TEXT)
    with pytest.raises(SohoError, match="maps need gradients; load the model with SohoPipeline"):
        word_maps(pipeline.speed_up(), WIDE, TEXT)


def test_unknown_and_cut_words_are_told() -> None:
    pipeline = tiny_pipeline(SohoForImageTextRetrieval)
    text = "a red ball 7 and a red ball and a red ball and a star"
    maps = word_maps(pipeline, WIDE, text)
    assert maps.notes[0] == "7 is not in the vocabulary and is read as [UNK]."
    assert maps.notes[1] == "The model reads the first 12 tokens of the text; 6 of its words are beyond."


# -- Drawing --------------------------------------------------------------------------------------------------------


def test_every_pixel_has_the_value_of_its_cell() -> None:
    values, valid = np.arange(1.0, 7.0).reshape(2, 3), np.array([[1, 1, 0], [1, 1, 0]], dtype=bool)
    # Read as 128 x 100 of a canvas of 192 x 128; shown in twice its size.
    pixels = spread(values, valid, (128, 100), (256, 200))
    assert pixels.shape == (200, 256)
    assert (pixels[:128, :128] == 1).all()
    assert (pixels[:128, 128:] == 2).all()
    assert (pixels[128:, :128] == 4).all()
    assert (pixels[128:, 128:] == 5).all()  # 3 and 6 are padding and never shown
    beyond = spread(np.ones((1, 1)), np.ones((1, 1)), (96, 64), (96, 64))  # a wiring that pools with floor
    assert beyond[:, :64].all()
    assert not beyond[:, 64:].any()


def test_the_largest_cell_keeps_its_colours() -> None:
    picture = Image.new("RGB", (128, 64), (200, 40, 40))
    shown = np.asarray(overlay(picture, [[0.0, 0.02]], [[True, True]], (128, 64), edge=128))
    assert shown[30, 100].tolist() == [200, 40, 40]
    faded = [round(REST * own + (1 - REST) * pale) for own, pale in zip((200, 40, 40), FADED)]
    assert shown[30, 20].tolist() == pytest.approx(faded, abs=1)
    nothing = np.asarray(overlay(picture, [[0.0, 0.0]], [[True, True]], (128, 64), edge=64))
    assert nothing.shape == (32, 64, 3)
    assert nothing[10, 50].tolist() == pytest.approx(faded, abs=1)
