"""Score every image with every text by a model that must read both together.

Such a model has no vector to compare: each of (images x texts) pairs goes through the fusion Transformer. What can be
saved is saved: the CNN runs once per image, the text embedding once per text, blocks of pairs hold texts of nearly
one length and images of one number of tokens, and a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from soho.errors import SohoError
from soho.evaluation.score_matrix import ScoreMatrix, Scores, gather_scores, named, shard_rows
from soho.evaluation.scoring_plan import Block, Indices, PairScorer, ScoringPlan
from soho.evaluation.token_store import TokenStore

__all__ = [
    "PairScorer",
    "ScoringPlan",
    "fingerprint_of",
    "gather_scores",
    "score_all_pairs",
    "shard_rows",
]

# pixel_values (B, 3, H, W), pixel_mask (B, H, W), the B rows of the score matrix.
ImageBatch = tuple[Tensor, Tensor, Sequence[int] | Tensor | Indices]

# Texts embedded in one go.
TEXT_CHUNK = 1024


def fingerprint_of(model: nn.Module, *parts: object) -> str:
    """Return a name for a model's weights and whatever else a score depends on (for instance file names, sizes).

    Args:
        model: every entry of its state counts.
        *parts: by their `repr`.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(repr(parts).encode())
    return digest.hexdigest()


def score_all_pairs(
    scorer: PairScorer,
    images: Iterable[ImageBatch],
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    pair_batch: int = 512,
    dtype: torch.dtype = torch.float32,
    out: Path | None = None,
    fingerprint: str = "",
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    progress: bool = True,
    image_count: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    record_every: float = 2.0,
) -> Scores:
    """Score all pairs of images and texts.

    Args:
        scorer: the model, on `device`; a module is put into evaluation mode meanwhile.
        images: batches of pixel_values (B, 3, H, W), pixel_mask (B, H, W) bool and the B image rows, which over all
            batches are 0 .. images - 1 in any order. Not touched where `out` holds all image tokens already.
        input_ids: (T, L) texts.
        attention_mask: (T, L) 1 at tokens.
        pair_batch: most pairs that go through the fusion Transformer at once.
        dtype: how image and text tokens are kept between their encoding and the fusion.
        out: a folder for the score matrix and all that is needed to go on after a kill; None = memory.
        fingerprint: names model and data, see `fingerprint_of`; scores in `out` of another one are replaced.
        device: where the model computes.
        autocast: precision of the model's arithmetic, for instance torch.bfloat16; None = that of its weights.
        progress: print the plan and show a bar with rate and time left.
        image_count: number of images over all processes where it is known; then it is checked.
        rank: number of this process; it scores `shard_rows(images, rank, world_size)` and leaves other rows out.
        world_size: number of processes.
        record_every: seconds between two records of progress; 0 = after every block.

    Returns:
        (images, texts) float32, with several processes (own rows, texts): see `gather_scores`. A
        read-only memory map of `scores.npy` where `out` is given.

    Raises:
        SohoError: rows that are missing, double or unknown; a score that is not a number; `out` without fingerprint.
    """
    if input_ids.shape != attention_mask.shape or input_ids.ndim != 2:
        raise SohoError(
            f"texts need input_ids and attention_mask of one shape (texts, length), not {tuple(input_ids.shape)} "
            f"and {tuple(attention_mask.shape)}"
        )
    if pair_batch < 1 or not 0 <= rank < world_size:
        raise SohoError(f"pair_batch={pair_batch} must be positive and rank={rank} below world_size={world_size}")
    if out is not None and not fingerprint:
        raise SohoError(f"scores kept in {out} need a fingerprint of model and data, or they could be mixed up")
    if not len(input_ids):
        raise SohoError("there are no texts to score")
    show = progress and rank == 0
    key = _key(fingerprint, input_ids, attention_mask, dtype, autocast, image_count, rank, world_size)
    record = ScoreMatrix(out, key, rank, world_size)
    path = None if out is None else out / named("image_tokens", rank, world_size)
    if record.complete:
        if path is not None:
            TokenStore.discard(path)  # left behind by a kill in the last moment
        return record.scores()
    engine = _Engine(scorer, torch.device(device), autocast)
    with engine.ready():
        visual = TokenStore(dtype, path, key)
        if not visual.complete:
            mine = None if image_count is None else len(shard_rows(image_count, rank, world_size))
            _encode_images(engine, images, visual, rank, world_size, mine, show)
        _check_rows(visual.rows, image_count, rank, world_size)
        visual.finish()
        texts = TokenStore(dtype)
        for start in range(0, len(input_ids), TEXT_CHUNK):
            part = slice(start, start + TEXT_CHUNK)
            tokens, mask = engine.text_tokens(input_ids[part], attention_mask[part])
            texts.add(tokens, mask, range(start, start + len(tokens)))
        texts.finish()
        plan = ScoringPlan.of(visual.counts, texts.counts, pair_batch)
        record.begin(len(visual.rows), len(input_ids), pair_batch)
        _score(engine, plan, visual, texts, record, show, record_every)
    visual.remove()
    return record.scores()


def _score(
    engine: _Engine,
    plan: ScoringPlan,
    visual: TokenStore,
    texts: TokenStore,
    record: ScoreMatrix,
    show: bool,
    record_every: float,
) -> None:
    """Score block after block from where the record stands."""
    # In a shard, row r of the images is row r // world_size of the matrix: the rank of r among the shard's rows.
    matrix_row = np.argsort(np.argsort(np.asarray(visual.rows, dtype=np.int64)))
    total = len(plan.texts)
    if show:
        print(*record.lines(), *plan.lines(engine.scorer), sep="\n", file=sys.stderr)
    bar = tqdm(
        total=len(plan.images) * total,
        initial=record.image * total + record.text * (plan.tile_end(record.image) - record.image if record.text else 0),
        desc="pairs",
        unit="pair",
        unit_scale=True,
        disable=not show,
        dynamic_ncols=True,
    )
    begun = recorded = time.monotonic()
    tile: tuple[int, Tensor, Tensor] | None = None
    first = True
    try:
        for block in plan.blocks(record.image, record.text):
            if tile is None or tile[0] != block.image_start:
                tile = (block.image_start, *visual.take(plan.images[block.image_start : block.image_end]))
            columns = plan.texts[block.text_start : block.text_end]
            scores = engine.score_block(*texts.take(columns), *tile[1:])
            rows = matrix_row[plan.images[block.image_start : block.image_end]]
            if np.isnan(scores).any():
                i, j = np.argwhere(np.isnan(scores))[0]
                image = visual.rows[plan.images[block.image_start + i]]
                raise SohoError(f"the score of image {image} and text {columns[j]} is not a number")
            record.write(rows, columns, scores)
            record.reached(block, total)
            now = time.monotonic()
            if now - recorded >= record_every:
                record.save()
                recorded = now
            bar.update(scores.size)
            if first and show:
                tqdm.write(f"pair scoring: about {_left(plan, engine.scorer, block, now - begun)}", file=sys.stderr)
            first = False
    finally:
        record.save()
        bar.close()
    record.finish()


def _left(plan: ScoringPlan, scorer: PairScorer, block: Block, seconds: float) -> str:
    """Say how long the rest will take if it goes as the block that was measured."""
    images, texts = slice(block.image_start, block.image_end), slice(block.text_start, block.text_end)
    rest = plan.cost(scorer, images, slice(block.text_end, None)) + plan.cost(scorer, slice(block.image_end, None))
    left = seconds * rest / max(plan.cost(scorer, images, texts), 1e-9)
    if left < 90:
        return f"{left:.0f} s more, going by the first block"
    return f"{left / 60:.0f} min more, going by the first block"


class _Engine:
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
        return self.scorer.image_tokens(pixel_values.to(self.device), pixel_mask.to(self.device))

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
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


def _encode_images(
    engine: _Engine,
    images: Iterable[ImageBatch],
    store: TokenStore,
    rank: int,
    world_size: int,
    count: int | None,
    show: bool,
) -> None:
    """Encode the images of this process that the store does not hold yet."""
    done, seen = set(store.rows), set[int]()
    bar = tqdm(total=count, desc="images", unit="image", disable=not show, dynamic_ncols=True)
    for pixel_values, pixel_mask, numbers in images:
        rows = [int(row) for row in numbers]
        if len(rows) != len(pixel_values):
            raise SohoError(f"a batch of {len(pixel_values)} images came with {len(rows)} row numbers")
        own = [place for place, row in enumerate(rows) if row % world_size == rank]
        for place in own:
            if rows[place] in seen:
                raise SohoError(f"image row {rows[place]} came twice")
            seen.add(rows[place])
        bar.update(len(own))
        new = [place for place in own if rows[place] not in done]
        if new:
            if len(new) < len(rows):
                pixel_values, pixel_mask = pixel_values[new], pixel_mask[new]
            tokens, mask = engine.image_tokens(pixel_values, pixel_mask)
            store.add(tokens, mask, [rows[place] for place in new])
    bar.close()


def _check_rows(rows: Sequence[int], images: int | None, rank: int, world_size: int) -> None:
    end = images if images is not None else rank + world_size * len(rows)
    expected = range(rank, end, world_size)
    if not rows and world_size == 1:
        raise SohoError("there are no images to score")
    missing = sorted(set(expected) - set(rows))
    if missing or len(rows) != len(expected):
        word = f"row {missing[0]} is missing" if missing else f"row {max(rows)} is too much"
        raise SohoError(f"image rows must be 0 .. images - 1 without a gap, but {word}")


def _key(fingerprint: str, input_ids: Tensor, attention_mask: Tensor, *parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (input_ids, attention_mask):
        digest.update(np.ascontiguousarray(tensor.cpu().long().numpy()).data)
    digest.update(repr((fingerprint, tuple(input_ids.shape), parts)).encode())
    return digest.hexdigest()
