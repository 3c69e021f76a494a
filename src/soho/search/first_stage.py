"""The first stage of a search: which pictures' vectors lie nearest to the vectors of the texts.

Up to `GRAPH_FROM` pictures all inner products are taken, which is exact and costs milliseconds. Larger libraries get
a graph of nearest neighbours (HNSW) from usearch: its wheel is small, brings no second OpenMP or BLAS beside torch's
as that of faiss-cpu does, and its graphs are searched from a memory map. The graph only proposes; the proposals are
put in order by their exact inner products.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from soho.errors import SohoError
from soho.search.segments import Indices, Segment, Vectors, write_whole

logger = logging.getLogger(__name__)

# Pictures from which on a graph is made.
GRAPH_FROM = 50_000

# Inner products held at one time: 4 Mi, 16 MiB.
BLOCK_PRODUCTS = 1 << 22

# The graph proposes so many times the candidates asked for.
PROPOSALS = 2

# Vectors that go into the graph in one go.
GRAPH_CHUNK = 4096

# A picture as one number: place of its segment (in a graph: number of the segment) and row.
ROW_BITS = 32


class Best:
    """The best k of many scored pictures for each of Q texts, found a block at a time.

    Args:
        texts: Q.
        k: how many are kept.
    """

    def __init__(self, texts: int, k: int) -> None:
        self.k = k
        self.scores = np.zeros((texts, 0), dtype=np.float32)
        self.pictures = np.zeros((texts, 0), dtype=np.int64)

    def add(self, scores: Vectors, pictures: Indices) -> None:
        """Take in the scores (Q, n) of n pictures, named by numbers (n,) or (Q, n)."""
        everything = np.concatenate((self.scores, scores), axis=1)
        names = np.concatenate((self.pictures, np.broadcast_to(pictures, scores.shape)), axis=1)
        if everything.shape[1] > self.k:
            kept = np.argpartition(-everything, self.k - 1, axis=1)[:, : self.k]
            everything, names = np.take_along_axis(everything, kept, 1), np.take_along_axis(names, kept, 1)
        self.scores, self.pictures = everything, names

    def ranked(self) -> tuple[Vectors, Indices]:
        """Return scores and numbers (Q, at most k), best first; equal scores in the order of the numbers."""
        order = np.lexsort((self.pictures, -self.scores), axis=1)
        return np.take_along_axis(self.scores, order, 1), np.take_along_axis(self.pictures, order, 1)


def nearest(
    segments: Sequence[Segment], texts: npt.NDArray[np.float32], k: int, graph: Any = None
) -> tuple[Vectors, Indices]:
    """Return the k pictures whose vectors lie nearest to each text's.

    Args:
        segments: of the index.
        texts: (Q, D) unit vectors.
        k: how many pictures a text gets, or all where there are fewer.
        graph: see `open_graph`; None takes all inner products.

    Returns:
        (Q, k) cosines and (Q, k) pictures, best first, as `place of the segment << 32 | row`.
    """
    best = Best(len(texts), k)
    if graph is not None:
        _ask_graph(graph, segments, texts, best)
        return best.ranked()
    block = max(1, BLOCK_PRODUCTS // max(1, len(texts)))
    for place, segment in enumerate(segments):
        for start in range(0, len(segment.live), block):
            rows = segment.live[start : start + block]
            whole = len(rows) == rows[-1] - rows[0] + 1  # a slice of the memory map is not copied
            vectors = segment.vectors[rows[0] : rows[-1] + 1] if whole else segment.vectors[rows]
            best.add(texts @ vectors.T, (place << ROW_BITS) | rows)
    return best.ranked()


def _ask_graph(graph: Any, segments: Sequence[Segment], texts: Vectors, best: Best) -> None:
    """Put the graph's proposals in order by their exact inner products."""
    place_of = {segment.number: place for place, segment in enumerate(segments)}
    wanted = min(PROPOSALS * best.k, graph.size)
    graph.expansion_search = max(64, wanted)
    keys = np.asarray(graph.search(texts, wanted).keys, dtype=np.int64).reshape(len(texts), -1)  # (Q, wanted)
    rows = keys & ((1 << ROW_BITS) - 1)
    places = np.vectorize(place_of.__getitem__, otypes=[np.int64])(keys >> ROW_BITS)
    scores = np.empty(keys.shape, dtype=np.float32)
    for place in np.unique(places):
        query, column = np.nonzero(places == place)
        vectors = segments[place].vectors[rows[query, column]]
        scores[query, column] = np.einsum("pd,pd->p", vectors, texts[query])
    best.add(scores, (places << ROW_BITS) | rows)


def graph_path(folder: Path, segments: Sequence[Segment]) -> Path:
    """Return the file of the graph over exactly these pictures, whether it is there or not."""
    digest = hashlib.blake2b(digest_size=8)
    for segment in segments:
        digest.update(np.int64(segment.number).tobytes() + segment.live.tobytes() + b";")
    return folder / f"graph-{digest.hexdigest()}.usearch"


def make_graph(folder: Path, segments: Sequence[Segment], progress: bool) -> None:
    """Write the graph over all pictures of an index and delete that of an earlier state.

    Raises:
        SohoError: usearch is not installed.
    """
    path = graph_path(folder, segments)
    if not path.exists():
        index = new_graph(segments[0].vectors.shape[1])
        total = sum(len(segment.live) for segment in segments)
        with tqdm(total=total, desc="graph", unit="picture", disable=not progress, dynamic_ncols=True) as bar:
            for segment in segments:
                for start in range(0, len(segment.live), GRAPH_CHUNK):
                    rows = segment.live[start : start + GRAPH_CHUNK]
                    keys = ((segment.number << ROW_BITS) | rows).astype(np.uint64)
                    # With one thread the same pictures give the same graph, byte for byte.
                    index.add(keys, np.ascontiguousarray(segment.vectors[rows]), threads=1)
                    bar.update(len(rows))
        write_whole(path, lambda file: index.save(str(file)))
    remove_graphs(folder, path)


def remove_graphs(folder: Path, but: Path | None = None) -> None:
    """Delete graphs of earlier states, and those that a kill left unfinished."""
    for file in folder.glob("graph-*"):
        if file != but:
            file.unlink(missing_ok=True)


def new_graph(width: int) -> Any:
    """Return an empty graph for vectors of this width.

    Raises:
        SohoError: usearch is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError:
        raise SohoError(
            "a graph over this many pictures needs usearch: pip install 'soho-vlp[search]', or leave the graph out "
            "with --no-graph (a search then takes all inner products)"
        ) from None
    return Index(ndim=width, metric="ip", dtype="f16")


def open_graph(folder: Path, segments: Sequence[Segment]) -> Any:
    """Return the graph over exactly these pictures as a memory map; None where there is none that can be used."""
    path = graph_path(folder, segments)
    if not segments or not path.exists():
        return None
    try:
        from usearch.index import Index
    except ImportError:
        logger.warning(
            "%s is not used: pip install 'soho-vlp[search]'; without it a search takes all inner products", path
        )
        return None
    return Index.restore(str(path), view=True)
