"""An index over one's own pictures: made once from a folder, brought up to date, and searched by texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from soho.errors import SohoError
from soho.evaluation.scoring_engine import Engine
from soho.models.fast import fast_copy, fast_dtype
from soho.models.pair_scorer import GridScorer
from soho.pipelines import SohoPipeline
from soho.search.catalogue import Catalogue, only_writer
from soho.search.encoding import Encoder
from soho.search.first_stage import GRAPH_FROM, ROW_BITS, make_graph, nearest, open_graph, remove_graphs
from soho.search.index_model import FORMAT, index_fingerprint, must_agree, pipeline_of, searcher
from soho.search.second_stage import embed, rerank, score_everything
from soho.search.segments import Segment, Vectors
from soho.search.updating import WINDOW, UpdateReport, bring_up_to_date

# Candidates that the fusion Transformer reads for every text.
RERANK = 50

# Texts embedded together.
TEXTS = 64

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Found:
    """A picture that a search found.

    Attributes:
        path: the file, inside the library's folder as that was given to `build`.
        score: log-odds that text and picture match, by the model's own definition (fusion, and the contrastive
            similarity where `match_adds_contrast` says so); None where only vectors were compared.
        similarity: inner product of the two contrastive unit vectors, in [-1, 1].
        copies: other files with the same content.
        entry: number of the picture in the index, for `picture_of`.
    """

    path: Path
    score: float | None
    similarity: float
    copies: tuple[Path, ...] = ()
    entry: int = -1

    @property
    def probability(self) -> float | None:
        """That text and picture match; None where only vectors were compared."""
        return None if self.score is None else float(torch.tensor(self.score, dtype=torch.float64).sigmoid())


class PictureIndex:
    """Vectors and stored tokens of the pictures below a folder, and the model that reads them.

    Use `build` or `open`. The index holds what the last update found; `update` looks again.

    Args:
        folder: of the index.
        pipeline: the model of the index, in float32.
        fast: let fusion compute in bfloat16 where the device does.

    Attributes:
        library: the folder of the pictures.
        segments: what the pictures' vectors and tokens lie in.
        last_update: what `build` or `update` did.
    """

    def __init__(self, folder: Path, pipeline: SohoPipeline, fast: bool = False) -> None:
        self.folder, self.pipeline, self.fast = folder, pipeline, fast
        self.model = searcher(pipeline)
        self.fingerprint = index_fingerprint(pipeline)
        self.catalogue = Catalogue(folder)
        settings = self.catalogue.meta()
        must_agree(folder, settings, self.fingerprint)
        self.library = Path(settings["library"])
        self.dtype = DTYPES[settings["dtype"]]
        dtype = fast_dtype(pipeline.device) if fast else torch.float32
        self.engine = Engine(GridScorer(self.model, dtype), pipeline.device, None)
        self.last_update: UpdateReport | None = None
        self._look()

    def _look(self) -> None:
        """Take notice of what the index holds now."""
        with self.catalogue.one_moment():
            parts = [Segment(self.folder, n, self.catalogue.live_rows(n)) for n, _ in self.catalogue.segments()]
        self.segments = [segment for segment in parts if len(segment.live)]
        self.graph: Any = open_graph(self.folder, self.segments)

    @classmethod
    def build(
        cls,
        library: str | Path,
        model: str | Path | SohoPipeline,
        out: str | Path,
        *,
        dtype: str = "float16",
        moved: bool = False,
        fast: bool = False,
        device: str = "cpu",
        trust_remote_code: bool = False,
        **update: Any,
    ) -> PictureIndex:
        """Make an index of the JPEG, PNG and WebP pictures below a folder, or bring an existing one up to date.

        Killed at any moment, the same call goes on and ends with the same index.

        Args:
            library: folder of the pictures.
            model: folder of a retrieval or pre-training model with a contrastive head, or its pipeline.
            out: folder of the index.
            dtype: how picture tokens are kept: float16, bfloat16 or float32.
            moved: the index was made of the same library in another place.
            fast: encode in the fastest settings of the device; values then differ by the rounding of bfloat16.
            device: where the model computes; a pipeline has its own.
            trust_remote_code: let the model folder's own CNN code run.
            **update: options of `update`.

        Raises:
            SohoError: the model has no contrastive head or is another than the index was made with; the index is of
                another library; another update is running; the folder of pictures is not there.
        """
        if dtype not in DTYPES:
            raise SohoError(f"dtype={dtype!r} is not known; expected one of {', '.join(DTYPES)}")
        place, out = Path(library), Path(out)
        if not place.is_dir():
            raise SohoError(f"{place} is not a folder; expected one with pictures")
        pipeline = pipeline_of(model, device, trust_remote_code)
        searcher(pipeline)
        fingerprint = index_fingerprint(pipeline)
        if out.exists() and not out.is_dir():
            raise SohoError(f"{out} is a file; expected a folder for the index, which is made where it is missing")
        out.mkdir(parents=True, exist_ok=True)
        with only_writer(out), closing(Catalogue(out, write=True)) as catalogue:
            settings = catalogue.meta()
            if settings:
                must_agree(out, settings, fingerprint)
                if settings["dtype"] != dtype:
                    raise SohoError(
                        f"{out} keeps tokens as {settings['dtype']}; name it with --dtype, or another --out"
                    )
                if Path(settings["library"]) != place.resolve() and not moved:
                    raise SohoError(
                        f"{out} holds the pictures of {settings['library']}, not of {place}; name another --out, or "
                        "add --moved if that folder lies here now"
                    )
            settings = {"dtype": dtype, **settings, "format": FORMAT, "fingerprint": fingerprint}
            settings |= {"library": str(place.resolve()), "model": str(pipeline.folder or "")}
            with catalogue.transaction():
                catalogue.set_meta(**settings)
        index = cls(out, pipeline, fast)
        index.update(**update)
        return index

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: str | Path | SohoPipeline | None = None,
        *,
        fast: bool = False,
        device: str = "cpu",
        trust_remote_code: bool = False,
        advice: str = "say where with --model",
    ) -> PictureIndex:
        """Open an index for searching.

        Args:
            folder: of the index.
            model: the folder or pipeline of its model; None takes the folder that the index was made with.
            fast: let fusion compute in bfloat16 where the device does.
            device: where the model computes; a pipeline has its own.
            trust_remote_code: let the model folder's own CNN code run.
            advice: what the message tells to do where the remembered folder is gone.

        Raises:
            SohoError: there is no index, or the model is another one, or no longer where it was.
        """
        with closing(Catalogue(Path(folder))) as catalogue:
            settings = catalogue.meta()
        if "fingerprint" not in settings:
            raise SohoError(f"{folder} is an index that was never begun; run `soho index` again")
        if model is None:
            model = settings["model"]
            if not model or not Path(model).is_dir():
                raise SohoError(f"the model of {folder} is no longer in {model or 'a folder'}; {advice}")
        return cls(Path(folder), pipeline_of(model, device, trust_remote_code), fast)

    def update(
        self,
        *,
        rehash: bool = False,
        compact: bool = False,
        batch_size: int = 8,
        workers: int = 2,
        window: int = WINDOW,
        graph_from: int | None = GRAPH_FROM,
        progress: bool = True,
    ) -> UpdateReport:
        """Look into the library again: encode what is new or changed, drop what is gone.

        Args:
            rehash: read every file, also where size and time of the last change are as before.
            compact: leave nothing of dropped pictures on the disk; else they go once they are a quarter of a segment.
            batch_size: pictures of one padded shape that go through the CNN together.
            workers: threads that decode pictures.
            window: files that become part of the index together.
            graph_from: number of pictures from which on a graph of nearest neighbours is made; None = never.
            progress: show bars with rate and time left.

        Raises:
            SohoError: another update is running, or the folder of pictures is gone.
        """
        for name, value in {"batch_size": batch_size, "workers": workers, "window": window}.items():
            if value < 1:
                raise SohoError(f"{name}={value} must be at least 1")
        scorer, arithmetic = self.engine.scorer, torch.float32
        if self.fast:
            model, report = fast_copy(self.model, self.pipeline.device)
            scorer, arithmetic = GridScorer(model, report.dtype), report.dtype
        engine = Engine(scorer, self.pipeline.device, None)
        name = f"{self.fingerprint} {arithmetic} {self.fast}"
        encoder = Encoder(engine, self.pipeline.processor, self.library, name, self.dtype, batch_size, workers)
        with only_writer(self.folder), engine.ready():
            with closing(Catalogue(self.folder, write=True)) as catalogue:
                done = bring_up_to_date(catalogue, encoder, rehash, compact, progress, window)
            self._look()
            if graph_from is not None and len(self) >= max(1, graph_from):
                make_graph(self.folder, self.segments, progress)
            else:
                remove_graphs(self.folder)
            self.graph = open_graph(self.folder, self.segments)
        self.last_update = done
        return done

    def __len__(self) -> int:
        """Return the number of different pictures."""
        return sum(len(segment.live) for segment in self.segments)

    def entries(self) -> npt.NDArray[np.int64]:
        """Return the numbers of all pictures; see `picture_of`."""
        own = [(segment.number << ROW_BITS) | segment.live for segment in self.segments]
        return np.concatenate(own) if own else np.zeros(0, dtype=np.int64)

    def broken(self) -> list[tuple[str, str]]:
        """Return path and reason of every file of the library that could not be read."""
        return self.catalogue.broken()

    def search(
        self,
        texts: str | Sequence[str],
        top: int = 10,
        rerank: int = RERANK,
        exact: bool = False,
        progress: bool = False,
    ) -> list[list[Found]]:
        """Find the pictures that texts describe.

        The vectors choose `rerank` candidates for each text, the fusion Transformer puts them in order from the stored
        tokens. With `rerank` of at least the number of pictures, or `exact`, the result is that of scoring every pair.

        Args:
            texts: Q of them, or one.
            top: pictures for each text.
            rerank: candidates, at least `top`; 0 = the order of the vectors alone.
            exact: score every picture.
            progress: show a bar where every picture is scored.

        Returns:
            For each text the `top` best pictures, best first.

        Raises:
            SohoError: an empty text, or a number out of range.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        for row in rows:
            if not row.strip():
                raise SohoError("an empty text finds nothing; expected a description of a picture")
        if top < 1 or rerank < 0:
            raise SohoError(f"top={top} must be at least 1 and rerank={rerank} at least 0")
        if not len(self):
            return [[] for _ in rows]
        found: list[list[Found]] = []
        with self.engine.ready():
            for start in range(0, len(rows), TEXTS):
                found += self._search(rows[start : start + TEXTS], top, rerank, exact, progress)
        return found

    def _search(self, texts: list[str], top: int, candidates: int, exact: bool, progress: bool) -> list[list[Found]]:
        tokens, mask, vectors = self.embed(texts)
        if exact:
            scores, pictures = score_everything(self.engine, self.segments, tokens, mask, top, progress)
            return [self._found(p, s, self._similarities(p, v)) for p, s, v in zip(pictures, scores, vectors)]
        near, pictures = nearest(self.segments, vectors, max(candidates, top) if candidates else top, self.graph)
        if not candidates:
            return [self._found(p, None, n) for p, n in zip(pictures, near)]
        found = []
        for query in range(len(texts)):
            own = slice(query, query + 1)
            match = rerank(self.engine, self.segments, tokens[own], mask[own], pictures[query])
            best = np.lexsort((pictures[query], -match))[:top]
            found.append(self._found(pictures[query][best], match[best], near[query][best]))
        return found

    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, Vectors]:
        """Return embedded tokens (Q, L, C), their mask (Q, L) and unit vectors (Q, D) of texts."""
        batch = self.pipeline.processor(text=list(texts))
        return embed(self.engine, batch["input_ids"], batch["attention_mask"])

    def _similarities(self, pictures: np.ndarray, text: np.ndarray) -> np.ndarray:
        places, rows = pictures >> ROW_BITS, pictures & ((1 << ROW_BITS) - 1)
        return np.array([float(self.segments[p].vectors[r] @ text) for p, r in zip(places, rows)])

    def _found(self, pictures: np.ndarray, scores: np.ndarray | None, similarities: np.ndarray) -> list[Found]:
        found = []
        for number, name in enumerate(pictures):
            segment, row = self.segments[int(name) >> ROW_BITS], int(name) & ((1 << ROW_BITS) - 1)
            paths = [self.library / path for path in self.catalogue.paths_at(segment.number, row)]
            if paths:  # else an update has dropped it since this index was opened
                score = None if scores is None else float(scores[number])
                entry = (segment.number << ROW_BITS) | row
                found.append(Found(paths[0], score, float(similarities[number]), tuple(paths[1:]), entry))
        return found


def picture_of(folder: str | Path, entry: int) -> Path:
    """Return the file of a picture of an index, by its number; opens the catalogue by itself, so any thread may ask.

    Numbers hold until a segment is compacted or merged by a later `soho index`.

    Args:
        folder: of the index.
        entry: see `Found.entry` and `PictureIndex.entries`.

    Raises:
        SohoError: there is no index, or no such picture in it.
    """
    with closing(Catalogue(Path(folder))) as catalogue:
        segment, row = divmod(entry, 1 << ROW_BITS)
        # SQLite knows no larger numbers.
        paths = catalogue.paths_at(segment, row) if 0 <= entry < 1 << 63 else []
        if not paths:
            raise SohoError(f"the index has no picture {entry}; it may have been brought up to date meanwhile")
        return Path(catalogue.meta()["library"]) / paths[0]
