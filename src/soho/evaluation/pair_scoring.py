"""Score every image with every text by a model that must read both together.

Such a model has no vector to compare: each of (images x texts) pairs goes through the fusion Transformer. What can be
saved is saved: the CNN runs once per image, the text embedding once per text, blocks of pairs hold texts of nearly
one length and images of one number of tokens, and a run that was killed goes on where it stopped. A model that also has
vectors may choose the pairs that are worth it: a shortlist.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from soho.errors import SohoError
from soho.evaluation.score_matrix import (
    FIRST_STAGE,
    ScoreMatrix,
    Scores,
    gather_scores,
    named,
    over_processes,
    shard_rows,
)
from soho.evaluation.scoring_engine import Engine, Meter, refuse_nan
from soho.evaluation.scoring_plan import CPU_TOKENS_PER_BLOCK, Block, Indices, PairScorer, ScoringPlan
from soho.evaluation.shortlist import Cutoffs
from soho.evaluation.shortlist_scoring import fill_below, matrix_rows, score_first_stage, score_shortlist
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
    shortlist: int | None = None,
) -> Scores:
    """Score all pairs of images and texts.

    With a shortlist of k only the best k texts of every image and the best k images of every text go through the fusion
    Transformer, best by the inner product of the scorer's `image_vectors` and `text_vectors` (and what ties with the
    last of them). Their scores are the exact ones. Every other pair gets a score below the lowest exact score of the
    whole matrix, in the order of the inner products; see `soho.evaluation.shortlist.below`.

    Args:
        scorer: the model, on `device`; a module is put into evaluation mode meanwhile.
        images: batches of pixel_values (B, 3, H, W), pixel_mask (B, H, W) bool and the B image rows, which over all
            batches are 0 .. images - 1 in any order. Not touched where `out` holds all image tokens already.
        input_ids: (T, L) texts.
        attention_mask: (T, L) 1 at tokens.
        pair_batch: most pairs that go through the fusion Transformer at once; on a CPU fewer where they are long, see
            `soho.evaluation.scoring_plan.CPU_TOKENS_PER_BLOCK`.
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
        shortlist: k; None = all pairs exactly, as in the paper. With several processes torch.distributed is needed,
            and this call is collective. Where `out` is given, the inner products stay there as `first_stage.npy`.

    Returns:
        (images, texts) float32, with several processes (own rows, texts): see `gather_scores`. A
        read-only memory map of `scores.npy` where `out` is given.

    Raises:
        SohoError: rows that are missing, double or unknown; a score that is not a number; `out` without fingerprint;
            a shortlist by a scorer without unit vectors.
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
    subject = (fingerprint, input_ids, attention_mask, dtype, autocast, image_count)
    content, key = _key(*subject), _key(*subject, rank, world_size)
    own_key = key if shortlist is None else _key(*subject, rank, world_size, f"shortlist={shortlist}")
    record = ScoreMatrix(out, own_key, rank, world_size, content=content)
    path = None if out is None else out / named("image_tokens", rank, world_size)
    # The processes of a shortlist speak with each other, so none may leave before all are done.
    if record.complete if shortlist is None else all(over_processes(record.complete, world_size)):
        if path is not None:
            TokenStore.discard(path)  # left behind by a kill in the last moment
        return record.scores()
    engine = Engine(scorer, torch.device(device), autocast)
    first = ScoreMatrix(out, key, rank, world_size, content=content, stem=FIRST_STAGE)
    visual: TokenStore | None = None
    with engine.ready():
        if shortlist is None or not (first.complete and record.all_reached):
            visual = TokenStore(dtype, path, key)
            if not visual.complete:
                mine = None if image_count is None else len(shard_rows(image_count, rank, world_size))
                _encode_images(engine, images, visual, rank, world_size, mine, show)
            _check_rows(visual.rows, image_count, rank, world_size)
            visual.finish()
            texts = _embed_texts(engine, input_ids, attention_mask, dtype)
            bound = CPU_TOKENS_PER_BLOCK if engine.device.type == "cpu" else None
            plan = ScoringPlan.of(visual.counts, texts.counts, pair_batch, bound)
            pair_batch = plan.pair_batch  # blocks are cut, and records kept, by what the plan made of it
        if shortlist is None:
            assert visual is not None
            record.begin(len(visual.rows), len(input_ids), pair_batch)
            _score(engine, plan, visual, texts, record, show, record_every)
        else:
            if visual is not None and not first.complete:
                score_first_stage(engine, plan, visual, texts, first, show)
            products = first.scores()
            cutoffs = Cutoffs.of(products, shortlist, world_size)
            record.begin(len(products), len(input_ids), pair_batch)
            if visual is not None:
                score_shortlist(engine, plan, visual, texts, products, cutoffs, shortlist, record, show, record_every)
            fill_below(record, products, cutoffs, world_size)
    if visual is not None:
        visual.remove()
    elif path is not None:
        TokenStore.discard(path)  # of an earlier run, which was done with them
    return record.scores()


def _score(
    engine: Engine,
    plan: ScoringPlan,
    visual: TokenStore,
    texts: TokenStore,
    record: ScoreMatrix,
    show: bool,
    record_every: float,
) -> None:
    """Score block after block from where the record stands."""
    matrix_row = matrix_rows(visual)
    total = len(plan.texts)
    done = record.image * total + record.text * (plan.tile_end(record.image) - record.image if record.text else 0)
    if show:
        print(*record.lines(done), *plan.lines(engine.scorer), sep="\n", file=sys.stderr)
    tile: tuple[int, Tensor, Tensor] | None = None
    with Meter(record, len(plan.images) * total, done, show, record_every) as meter:
        for block in plan.blocks(record.image, record.text):
            if tile is None or tile[0] != block.image_start:
                tile = (block.image_start, *visual.take(plan.images[block.image_start : block.image_end]))
            columns = plan.texts[block.text_start : block.text_end]
            scores = engine.score_block(*texts.take(columns), *tile[1:])
            images = plan.images[block.image_start : block.image_end]
            names = np.asarray(visual.rows)[images]
            refuse_nan(scores.ravel(), names.repeat(len(columns)), np.tile(columns, len(images)))
            record.write(matrix_row[images], columns, scores)
            record.reached(block, total)
            meter.block(scores.size, functools.partial(_rest, plan, engine.scorer, block))
    record.finish()


def _rest(plan: ScoringPlan, scorer: PairScorer, block: Block) -> float:
    """Return the work that comes after a block, in units of the block's own."""
    images, texts = slice(block.image_start, block.image_end), slice(block.text_start, block.text_end)
    rest = plan.cost(scorer, images, slice(block.text_end, None)) + plan.cost(scorer, slice(block.image_end, None))
    return rest / max(plan.cost(scorer, images, texts), 1e-9)


def _embed_texts(engine: Engine, input_ids: Tensor, attention_mask: Tensor, dtype: torch.dtype) -> TokenStore:
    """Embed all texts, in memory."""
    texts = TokenStore(dtype)
    for start in range(0, len(input_ids), TEXT_CHUNK):
        part = slice(start, start + TEXT_CHUNK)
        tokens, mask = engine.text_tokens(input_ids[part], attention_mask[part])
        texts.add(tokens, mask, range(start, start + len(tokens)))
    texts.finish()
    return texts


def _encode_images(
    engine: Engine,
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
