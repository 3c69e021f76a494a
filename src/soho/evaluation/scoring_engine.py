"""How pair scoring runs a model, times it, and notes how far it has come."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from soho.errors import SohoError
from soho.evaluation.score_matrix import ScoreMatrix, Scores
from soho.evaluation.scoring_plan import Indices, PairScorer
from soho.memory import give_back_freed_memory

# Seconds; to get a gigabyte anew costs a hundredth of that.
GIVE_BACK_EVERY = 30.0


class Engine:
    """Runs the scorer's verbs on its device, without gradients and in the wanted precision."""

    def __init__(self, scorer: PairScorer, device: torch.device, autocast: torch.dtype | None) -> None:
        self.scorer, self.device, self.autocast = scorer, device, autocast

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Put a module into evaluation mode and switch gradients off."""
        modules = list(self.scorer.modules()) if isinstance(self.scorer, nn.Module) else []
        training = [module.training for module in modules]  # one by one: parts may be frozen
        for module in modules:
            module.training = False
        try:
            with (
                torch.inference_mode(),
                torch.autocast(
                    self.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None
                ),
            ):
                yield
        finally:
            for module, flag in zip(modules, training):
                module.training = flag

    def image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) and (B, H, W) to tokens (B, N, C) and mask (B, N), on the device."""
        return self.scorer.image_tokens(pixel_values.to(self.device), pixel_mask.to(self.device))

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, L) and (T, L) to tokens (T, L, C) and mask (T, L), on the device."""
        return self.scorer.text_tokens(input_ids.to(self.device), attention_mask.to(self.device))

    def score_block(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Scores:
        """Score (b, L, C) texts with (a, N, C) images; returns (a, b) float32."""
        a, b = len(visual), len(text)
        text, text_mask, visual, visual_mask = (x.to(self.device) for x in (text, text_mask, visual, visual_mask))
        score_grid = getattr(self.scorer, "score_grid", None)
        if score_grid is not None:
            grid: Tensor = score_grid(text, text_mask, visual, visual_mask)
            return grid.float().cpu().numpy()
        scores = self.scorer.score_pairs(
            text.expand(a, *text.shape).flatten(0, 1),
            text_mask.expand(a, *text_mask.shape).flatten(0, 1),
            visual.repeat_interleave(b, dim=0),
            visual_mask.repeat_interleave(b, dim=0),
        )
        return scores.float().reshape(a, b).cpu().numpy()

    def score_chosen(
        self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor, images: Indices, texts: Indices
    ) -> Scores:
        """Score (P,) pairs, named by places among the images (a, N, C) and the texts (b, L, C); returns float32."""
        text, text_mask, visual, visual_mask = (x.to(self.device) for x in (text, text_mask, visual, visual_mask))
        image_index, text_index = (torch.from_numpy(index).to(self.device) for index in (images, texts))
        chosen = getattr(self.scorer, "score_chosen", None)
        scores: Tensor
        if chosen is not None:
            scores = chosen(text, text_mask, visual, visual_mask, image_index, text_index)
        else:
            scores = self.scorer.score_pairs(
                text[text_index], text_mask[text_index], visual[image_index], visual_mask[image_index]
            )
        return scores.float().cpu().numpy()

    def image_vectors(self, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the unit vectors (a, D) float32 of (a, N, C) images, on the device."""
        return self._vectors("image_vectors", visual, visual_mask)

    def text_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return the unit vectors (b, D) float32 of (b, L, C) texts, on the device."""
        return self._vectors("text_vectors", text, text_mask)

    def _vectors(self, verb: str, tokens: Tensor, mask: Tensor) -> Tensor:
        if not hasattr(self.scorer, verb):
            raise SohoError(f"a shortlist needs a model with {verb}, and {type(self.scorer).__name__} has none")
        vectors: Tensor = getattr(self.scorer, verb)(tokens.to(self.device), mask.to(self.device))
        return vectors.float()


class Meter:
    """Shows the pairs that are done, saves the record now and then, and tells the time left after the first block.

    Every `GIVE_BACK_EVERY` seconds it also gives freed memory back: blocks differ in size, and where freed memory is
    kept (`soho.memory`) a long scoring would grow.

    Args:
        record: saved every `record_every` seconds and at the end, also when that is an error.
        total: pairs in all.
        done: pairs that an earlier run has scored.
        show: whether to print anything.
        record_every: seconds; 0 = after every block.
    """

    def __init__(self, record: ScoreMatrix, total: int, done: int, show: bool, record_every: float) -> None:
        self.record, self.show, self.record_every = record, show, record_every
        self.bar = tqdm(
            total=total,
            initial=done,
            desc="pairs",
            unit="pair",
            unit_scale=True,
            disable=not show,
            dynamic_ncols=True,
        )
        self.begun = self.recorded = self.given_back = time.monotonic()
        self.first = True

    def block(self, pairs: int, rest: Callable[[], float]) -> None:
        """Count a block that was scored; `rest` returns the work still to do, in units of this block's."""
        now = time.monotonic()
        if now - self.recorded >= self.record_every:
            self.record.save()
            self.recorded = now
        if now - self.given_back >= GIVE_BACK_EVERY:
            give_back_freed_memory()
            self.given_back = now
        self.bar.update(pairs)
        if self.first and self.show:
            left = (now - self.begun) * rest()
            said = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
            tqdm.write(f"pair scoring: about {said} more, going by the first block", file=sys.stderr)
        self.first = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.record.save()
        self.bar.close()


def refuse_nan(scores: Scores, images: Indices, texts: Indices) -> None:
    """Refuse scores that are not numbers.

    Args:
        scores: (P,).
        images: (P,) image of each score.
        texts: (P,) text of each score.

    Raises:
        SohoError: names the first such pair.
    """
    wrong = np.flatnonzero(np.isnan(scores))
    if len(wrong):
        raise SohoError(f"the score of image {images[wrong[0]]} and text {texts[wrong[0]]} is not a number")
