"""How much the first stage loses, and what each stage costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soho.errors import SohoError
from soho.search.first_stage import nearest
from soho.search.picture_index import RERANK, TEXTS, PictureIndex
from soho.search.second_stage import rerank, score_everything

SIZES = (10, 20, 50, 100, 200)

TOP = 10

# Texts whose times are taken.
TIMED = 50


@dataclass
class Measurement:
    """What `measure` found. Times are milliseconds a text, the text's embedding in the first stage included.

    Attributes:
        pictures: in the index.
        texts: that were asked.
        recall: by k: the share of the exact ten best pictures of all texts that are among the k candidates.
        first_stage: median time of embedding a text and choosing candidates.
        second_stage: by k: median time of reading k candidates with the fusion Transformer.
        exact: time of scoring every picture, as a mean over all texts together.
        cold_load: milliseconds until model and index were loaded, in this process that had its imports done.
        cold_first_stage: time of the very first text.
        cold_second_stage: the same with the default number of candidates.
        evicted: whether the files of the index were taken out of the system's cache before, so that "cold" means disk.
    """

    pictures: int = 0
    texts: int = 0
    recall: dict[int, float] = field(default_factory=dict)
    first_stage: float = 0.0
    second_stage: dict[int, float] = field(default_factory=dict)
    exact: float = 0.0
    cold_load: float = 0.0
    cold_first_stage: float = 0.0
    cold_second_stage: float = 0.0
    evicted: bool = False

    def lines(self) -> list[str]:
        """Return the figures for a console."""
        cold = "files of the index out of the system's cache" if self.evicted else "system's cache as it was"
        said = [
            f"{self.pictures:,} pictures, {self.texts:,} texts",
            f"cold start ({cold}): loading {self.cold_load:,.0f} ms, first text: first stage "
            f"{self.cold_first_stage:,.1f} ms, second stage {self.cold_second_stage:,.1f} ms (k = {RERANK})",
            f"warm: first stage {self.first_stage:,.1f} ms a text, every picture scored {self.exact:,.1f} ms a text",
            "    k  recall of the exact top 10  second stage, ms a text",
        ]
        for k, share in self.recall.items():
            said.append(f"{k:5}  {share:26.4f}  {self.second_stage[k]:23.1f}")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name, for a JSON file."""
        return asdict(self)


def measure(
    folder: Path, texts: Sequence[str], load: Callable[[], PictureIndex], progress: bool = True
) -> tuple[Measurement, PictureIndex]:
    """Measure the two stages against scoring every picture.

    Args:
        folder: of the index.
        texts: to ask; scoring all of them against every picture is most of the work.
        load: opens the index; its time is the cold start's.
        progress: show a bar with rate and time left.

    Returns:
        The figures and the opened index.

    Raises:
        SohoError: there is nothing to measure.
    """
    if not texts:
        raise SohoError("there are no texts to measure with; name a file with --queries")
    result = Measurement(texts=len(texts), evicted=forget_cached(folder))
    index, result.cold_load = _timed(load)
    result.pictures = len(index)
    if not len(index):
        raise SohoError(f"{folder} holds no pictures to measure with")
    sizes = [k for k in SIZES if k <= len(index)] or [len(index)]
    result.cold_first_stage, cold = _stages(index, texts[0], [min(RERANK, len(index))])
    result.cold_second_stage = next(iter(cold.values()))
    timed = [_stages(index, text, sizes) for text in texts[:TIMED]]
    result.first_stage = float(np.median([first for first, _ in timed]))
    result.second_stage = {k: float(np.median([seconds[k] for _, seconds in timed])) for k in sizes}

    kept, wanted = dict.fromkeys(sizes, 0), 0
    with index.engine.ready():
        for start in range(0, len(texts), TEXTS):
            part = list(texts[start : start + TEXTS])
            tokens, mask, vectors = index.embed(part)

            def score(tokens: Any = tokens, mask: Any = mask) -> Any:
                return score_everything(index.engine, index.segments, tokens, mask, TOP, progress)

            (_, best), spent = _timed(score)
            result.exact += spent / len(texts)
            near = np.empty((len(part), 0), dtype=np.int64)
            wanted += best.size
            for k in sorted(sizes, reverse=True):
                # A graph proposes in proportion to k; inner products of all pictures need to be ranked once.
                if index.graph is not None or not near.size:
                    _, near = nearest(index.segments, vectors, k, index.graph)
                kept[k] += sum(len(np.intersect1d(ours, exact)) for ours, exact in zip(near[:, :k], best))
    result.recall = {k: kept[k] / wanted for k in sizes}
    return result, index


def _stages(index: PictureIndex, text: str, sizes: Sequence[int]) -> tuple[float, dict[int, float]]:
    """Return the time of the first stage for one text, and that of the second by k."""
    with index.engine.ready():

        def choose() -> Any:
            tokens, mask, vectors = index.embed([text])
            return tokens, mask, nearest(index.segments, vectors, sizes[-1], index.graph)[1][0]

        (tokens, mask, near), first = _timed(choose)
        seconds = {}
        for k in sizes:
            _, seconds[k] = _timed(lambda k=k: rerank(index.engine, index.segments, tokens, mask, near[:k]))  # type: ignore[misc]
    return first, seconds


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - begun)


def forget_cached(folder: Path) -> bool:
    """Take the files of an index out of the system's cache, where the system can; returns whether it could."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in folder.glob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
