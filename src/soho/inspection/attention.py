"""Where a trained model looks from a word: attention to the cells of a picture, and its part in the output.

(a) Attention: what the word's tokens attend to among the visual tokens, mean over heads. (b) Gradient x attention: the
same weights, each times the positive part of the gradient of the model's output by it: what of the attention speaks for
the match, the answer or the class. The output is taken as log-odds, so that one near certainty has a gradient too.

The output reads only the [CLS] row of the last layer (and the models compute only that one). A word's own row there
leads nowhere; so words are read in the layer before it, and the whole text in the last one, in its [CLS] row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from soho.errors import SohoError
from soho.inspection.attention_maps import attention_rollout, attention_rows, cell_map, gradient_rows
from soho.inspection.attention_targets import choose_target, log_odds, outputs
from soho.inspection.code_map import cells_only, grid_shape, read_size
from soho.inspection.text_words import TextWord, text_words, words_in
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.pipelines import Picture, SohoPipeline, open_picture

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WordMaps:
    """Maps of the words of a text over one picture; W words, h x w cells.

    Cell (i, j) covers 64 pixels from (64 j, 64 i) of the picture in `read_size`. Maps are zero at padding.

    Attributes:
        words: W words as asked for, or as they stand in the text.
        pieces: W lists of WordPieces.
        attention: (W, h, w) attention weights of each word, mean over heads and pieces; a map's sum is the share of
            the word's attention that goes to the picture, the rest goes to the text.
        gradient: (W, h, w) the same weights times the positive part of the gradient of the output by them.
        whole_attention: (h, w) as `attention`, of [CLS].
        whole_gradient: (h, w) as `gradient`, of [CLS].
        valid: (h, w) bool, cells that hold picture.
        grid: (h, w).
        read_size: (width, height) of the picture as the model reads it, without padding.
        layer: which layer the words' maps are of, 1 = the first of the Transformer.
        whole_layer: the same of [CLS].
        layers: number of layers.
        target: what the gradient is of: "match", an answer or a class.
        probability: of the target, as the pipeline gives it.
        notes: what a reader should know, one sentence each.
        second: maps over the right picture, of a model that compares two.
    """

    words: tuple[str, ...]
    pieces: tuple[tuple[str, ...], ...]
    attention: Map
    gradient: Map
    whole_attention: Map
    whole_gradient: Map
    valid: npt.NDArray[np.bool_]
    grid: tuple[int, int]
    read_size: tuple[int, int]
    layer: int
    whole_layer: int
    layers: int
    target: str
    probability: float
    notes: tuple[str, ...] = ()
    second: WordMaps | None = None


@dataclass
class _Reading:
    """One pass of fusion over a text and a picture."""

    hidden: Tensor  # (1, S, C)
    attentions: tuple[Tensor, ...]  # (1, heads, S, S) each
    valid: Tensor  # (h, w)
    size: tuple[int, int]
    gradients: list[Tensor] = field(default_factory=list)  # as attentions


def word_maps(
    pipeline: SohoPipeline,
    image: Picture,
    text: str,
    words: Sequence[str] | None = None,
    *,
    second: Picture | None = None,
    target: str | None = None,
    layer: int | None = None,
    rollout: bool = False,
) -> WordMaps:
    """Map words of a text onto a picture.

    Args:
        pipeline: a model of any task, not its fast copy.
        image: the picture; of two the left one.
        text: what is read against it.
        words: words of the text, or several in a row ("red ball"); None: all.
        second: the right picture, for a model that compares two.
        target: the output to follow: "match" or "no match", an answer, or a class. None: "match", or the most
            probable answer or class.
        layer: whose attention is shown, 1 = the first. None: the last but one for words, the last for [CLS]; where
            only one layer reads the picture, that one.
        rollout: attention over all layers up to `layer` instead of in it alone (the gradient maps stay those of the
            layer).

    Returns:
        See `WordMaps`.

    Raises:
        SohoError: a word does not occur, an unknown target or layer, one picture too few or too many, a picture that
            cannot be read, or a model in its fast settings.
    """
    model = pipeline.model
    if pipeline.fast is not None:
        raise SohoError("maps need gradients; load the model with SohoPipeline.from_pretrained, without speed_up")
    pictures = [image] if second is None else [image, second]
    if isinstance(model, SohoForVisualReasoning) and second is None:
        raise SohoError("this model judges sentences about two pictures; give the right picture too (--second)")
    if second is not None and not isinstance(model, SohoForVisualReasoning):
        raise SohoError("this model reads one picture; leave the second one out (--second)")
    found = text_words(pipeline.processor, text, words)
    for_words, for_whole = _layers(model.config.num_hidden_layers, model.config.fusion_start, layer)
    # A web server may ask from inside inference mode, in which nothing has a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        readings = [_read(pipeline, picture, text) for picture in pictures]
        names, logits, shares = outputs(pipeline, [reading.hidden[:, 0] for reading in readings])
        number = choose_target(names, shares, target)
        score = log_odds(logits, number, one_of_many=not isinstance(model, SohoForQuestionAnswering))
        weights = [one for reading in readings for one in reading.attentions]
        gradients = torch.autograd.grad(score, weights, allow_unused=True)
    filled = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(weights, gradients)]
    for place, reading in enumerate(readings):
        reading.gradients = filled[place * len(reading.attentions) : (place + 1) * len(reading.attentions)]
    probability = float(shares[number])
    if isinstance(model, SohoForImageTextRetrieval) and model.match_contrast is not None:
        # The score adds a similarity that attention has no part in; the probability shown is that of the sum.
        match = next(one.probability for one in pipeline.match(image, text))
        probability = match if names[number] == "match" else 1.0 - match
    notes = _notes(pipeline, found, for_words, len(readings[0].attentions))
    if words is None and (cut := len(words_in(text)) - len(found)):
        limit = pipeline.processor.text_length
        notes = (*notes, f"The model reads the first {limit} tokens of the text; {cut} of its words are beyond.")
    common = (found, for_words, for_whole, rollout, model.config)
    maps = [_maps(reading, *common, names[number], probability, notes) for reading in readings]
    return replace(maps[0], second=maps[1]) if len(maps) > 1 else maps[0]


def _layers(count: int, start: int, layer: int | None) -> tuple[int, int]:
    """Return which of the fusing layers words and [CLS] are read in, counted from 0."""
    if layer is None:
        return max(0, count - start - 2), count - start - 1
    if not start < layer <= count:
        alone = f"; layers 1 to {start} read the text alone" if start else ""
        raise SohoError(f"layer {layer} does not read the picture; expected {start + 1} to {count}{alone}")
    return layer - 1 - start, layer - 1 - start


def _read(pipeline: SohoPipeline, image: Picture, text: str) -> _Reading:
    picture = open_picture(image)
    trunk, config = pipeline.model.trunk, pipeline.model.config
    batch = pipeline.processor(images=picture, text=[text]).to(pipeline.device)
    with torch.no_grad():  # what comes before fusion has no part in the gradients
        encoding = trunk.encode_image(batch["pixel_values"], batch["pixel_mask"])
        visual = trunk.place(encoding.tokens, encoding.position)
        read = trunk.encode_text(batch["input_ids"], batch["attention_mask"])
    # Asked for here, so that weights have a gradient also where somebody has frozen the model.
    visual, read = visual.requires_grad_(), read.requires_grad_()
    hidden, _, attentions = trunk.fuse(read, batch["attention_mask"], visual, encoding.mask, output_attentions=True)
    assert attentions is not None
    valid = cells_only(encoding.mask[0], bool(config.visual_summary))
    height, width = batch["pixel_values"].shape[-2:]
    grid = grid_shape(height, width, len(valid))
    return _Reading(hidden, attentions, valid.reshape(grid), read_size(pipeline, picture))


def _maps(
    reading: _Reading,
    words: Sequence[TextWord],
    for_words: int,
    for_whole: int,
    rollout: bool,
    config: object,
    target: str,
    probability: float,
    notes: tuple[str, ...],
) -> WordMaps:
    weights = [one.detach()[0].float() for one in reading.attentions]
    gradients = [one[0].float() for one in reading.gradients]
    first_cell = weights[0].shape[-1] - reading.valid.numel()

    def attended(number: int) -> Tensor:
        return attention_rollout(weights[: number + 1]) if rollout else attention_rows(weights[number])

    def maps(rows: Tensor, places: Sequence[Sequence[int]]) -> Map:
        stacked = torch.stack([cell_map(rows, place, first_cell, reading.valid) for place in places])
        return stacked.cpu().numpy().astype(np.float32)

    rows = [word.rows for word in words]
    start = int(getattr(config, "fusion_start", 0))
    return WordMaps(
        words=tuple(word.word for word in words),
        pieces=tuple(word.pieces for word in words),
        attention=maps(attended(for_words), rows),
        gradient=maps(gradient_rows(weights[for_words], gradients[for_words]), rows),
        whole_attention=maps(attended(for_whole), [(0,)])[0],
        whole_gradient=maps(gradient_rows(weights[for_whole], gradients[for_whole]), [(0,)])[0],
        valid=reading.valid.cpu().numpy(),
        grid=(reading.valid.shape[0], reading.valid.shape[1]),
        read_size=reading.size,
        layer=for_words + 1 + start,
        whole_layer=for_whole + 1 + start,
        layers=len(weights) + start,
        target=target,
        probability=probability,
        notes=notes,
    )


def _notes(pipeline: SohoPipeline, words: Sequence[TextWord], layer: int, layers: int) -> tuple[str, ...]:
    notes = []
    unknown = [word.word for word in words if pipeline.processor.tokenizer.unk_token in word.pieces]
    if unknown:
        listed, verb = ", ".join(unknown), "is" if len(unknown) == 1 else "are"
        notes.append(
            f"{listed} {verb} not in the vocabulary and {verb} read as {pipeline.processor.tokenizer.unk_token}."
        )
    if layer == layers - 1:
        notes.append(
            "The output reads only the [CLS] row of the last layer, so the gradient maps of words in it are zero; that "
            "of the whole text is not."
        )
    model = pipeline.model
    if isinstance(model, SohoForImageTextRetrieval) and model.match_contrast is not None:
        notes.append("The match score adds a contrastive similarity; the gradient is that of fusion alone.")
    return tuple(notes)
