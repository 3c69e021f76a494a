"""Two stages of pair scoring: all pairs by inner product, then a shortlist of them through the fusion Transformer."""

from __future__ import annotations

import functools
import sys

import numpy as np
import torch
from tqdm import tqdm

from soho.errors import SohoError
from soho.evaluation.score_matrix import ScoreMatrix, Scores, over_processes
from soho.evaluation.scoring_engine import Engine, Meter, refuse_nan
from soho.evaluation.scoring_plan import Indices, ScoringPlan
from soho.evaluation.shortlist import Cutoffs, below, row_blocks
from soho.evaluation.token_store import TokenStore

# Images or texts that get their vectors in one go.
VECTOR_CHUNK = 64

# Most images whose shortlisted pairs are put in the order of their texts' lengths together.
WINDOW_IMAGES = 256


def score_first_stage(
    engine: Engine, plan: ScoringPlan, visual: TokenStore, texts: TokenStore, first: ScoreMatrix, show: bool
) -> None:
    """Fill the matrix of the first stage: inner products of the unit vectors of all images and all texts.

    Raises:
        SohoError: the scorer has no vectors, or they are not of length one.
    """
    rows = matrix_rows(visual)
    first.begin(len(rows), len(texts.rows), 0)
    columns = torch.cat(
        [
            engine.text_vectors(*texts.take(np.arange(start, min(start + VECTOR_CHUNK, len(texts.rows)))))
            for start in range(0, len(texts.rows), VECTOR_CHUNK)
        ]
    )  # (T, D)
    bar = tqdm(total=len(rows), desc="first stage", unit="image", disable=not show, dynamic_ncols=True)
    start = 0
    while start < len(rows):
        end = plan.same_length_end(start, VECTOR_CHUNK)
        images = plan.images[start:end]
        vectors = engine.image_vectors(*visual.take(images))
        with torch.autocast(engine.device.type, enabled=False):  # full precision: the order hangs on small differences
            scores = (vectors @ columns.t()).cpu().numpy()  # (images, T)
        if not (np.abs(scores) < 1.001).all():
            raise SohoError(
                f"the vectors of image {visual.rows[images[0]]} or its batch mates, or of the texts, are not of length "
                "one; a first stage by inner product needs unit vectors"
            )
        first.write(rows[images], np.arange(len(columns)), np.clip(scores, -1.0, 1.0))
        bar.update(end - start)
        start = end
    bar.close()
    first.finish()


def score_shortlist(
    engine: Engine,
    plan: ScoringPlan,
    visual: TokenStore,
    texts: TokenStore,
    first_stage: Scores,
    cutoffs: Cutoffs,
    k: int,
    record: ScoreMatrix,
    show: bool,
    record_every: float,
) -> None:
    """Score the shortlisted pairs window after window from where the record stands.

    A window holds images of one number of tokens; its pairs are cut into blocks in the order of their texts' lengths.
    `record.image` counts images of the plan, `record.text` the pairs done of the window that is under way.
    """
    rows = matrix_rows(visual)
    work, pairs = _amounts(engine, plan, rows, first_stage, cutoffs)
    done = int(pairs[: record.image].sum()) + record.text
    if show:
        print(*record.lines(done), *_plan_lines(engine, plan, work, pairs, k), sep="\n", file=sys.stderr)
    size = min(WINDOW_IMAGES, max(8, 4 * plan.pair_batch // k))
    with Meter(record, int(pairs.sum()), done, show, record_every) as meter:
        while record.image < len(plan.images):
            start = record.image
            end = plan.same_length_end(start, size)
            own = rows[plan.images[start:end]]
            chosen = cutoffs.reached(own, first_stage[own])[:, plan.texts]
            text_place, image_place = np.nonzero(chosen.T)  # the longest texts first
            tile = visual.take(plan.images[start:end])
            for begin in range(record.text, len(text_place), plan.pair_batch):
                block = slice(begin, begin + plan.pair_batch)
                images, image_index = np.unique(image_place[block], return_inverse=True)
                words, text_index = np.unique(text_place[block], return_inverse=True)
                take = torch.from_numpy(images)
                scores = engine.score_chosen(
                    *texts.take(plan.texts[words]), tile[0][take], tile[1][take], image_index, text_index
                )
                columns = plan.texts[text_place[block]]
                names = np.asarray(visual.rows)[plan.images[start + image_place[block]]]
                refuse_nan(scores, names, columns)
                record.write_pairs(own[image_place[block]], columns, scores)
                reached = begin + len(scores)
                whole = reached == len(text_place)
                record.image, record.text = (end, 0) if whole else (start, reached)
                share = work[start:end].sum() / len(text_place)  # of one pair of this window
                later = work[end:].sum() + share * (len(text_place) - reached)
                meter.block(len(scores), functools.partial(_ratio, later, share * len(scores)))


def fill_below(record: ScoreMatrix, first_stage: Scores, cutoffs: Cutoffs, world_size: int) -> None:
    """Give every pair outside the shortlist its place below all exact scores (see `below`), and finish the record.

    Collective where there are several processes: the lowest exact score is that of the whole matrix. Doing it again
    after a kill changes nothing, because shortlisted pairs are told by the first stage and never overwritten.
    """
    lowest = np.inf
    for part in row_blocks(first_stage.shape):
        exact = record.rows(part)[cutoffs.reached(part, first_stage[part])]
        lowest = min(lowest, float(exact.min(initial=np.inf)))
    lowest = min(over_processes(lowest, world_size))
    for part in row_blocks(first_stage.shape):
        others = ~cutoffs.reached(part, first_stage[part])
        np.copyto(record.rows(part), below(lowest, first_stage[part]), where=others)
    record.finish()


def matrix_rows(visual: TokenStore) -> Indices:
    """Return the row of a process's score matrix for each image of its store.

    In a shard, image r is row r // world_size of the matrix: the rank of r among the shard's images.
    """
    return np.argsort(np.argsort(np.asarray(visual.rows, dtype=np.int64)))


def _amounts(
    engine: Engine, plan: ScoringPlan, rows: Indices, first_stage: Scores, cutoffs: Cutoffs
) -> tuple[np.ndarray, Indices]:
    """Return work (FLOPs, or tokens) and number of shortlisted pairs of every image, in the order of the plan."""
    work, pairs = np.zeros(len(plan.images)), np.zeros(len(plan.images), dtype=np.int64)
    start = 0
    while start < len(plan.images):
        end = plan.same_length_end(start, WINDOW_IMAGES)
        own = rows[plan.images[start:end]]
        chosen = cutoffs.reached(own, first_stage[own])[:, plan.texts]
        pairs[start:end] = chosen.sum(axis=1)
        work[start:end] = chosen @ plan.text_costs(engine.scorer, int(plan.image_lengths[start]))
        start = end
    return work, pairs


def _ratio(later: float, now: float) -> float:
    return later / max(now, 1e-9)


def _plan_lines(engine: Engine, plan: ScoringPlan, work: np.ndarray, pairs: Indices, k: int) -> list[str]:
    every = len(plan.images) * len(plan.texts)
    count = int(pairs.sum())
    if not count:
        return ["pair scoring: no pairs"]
    said = [
        f"pair scoring: the best {k:,} texts of every image and the best {k:,} images of every text by inner product: "
        f"{count:,} of {len(plan.images):,} images x {len(plan.texts):,} texts = {every:,} pairs ({count / every:.2%})"
    ]
    if hasattr(engine.scorer, "pair_flops"):
        total = work.sum() / 1e9
        said.append(f"pair scoring: {total:,.1f} GFLOP in all, {total / count:.3f} per pair")
    return said
