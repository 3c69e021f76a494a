"""What `soho index` and `soho search` do; both return the lines that the command prints."""

from __future__ import annotations

import functools
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soho.errors import SohoError
from soho.memory import keep_freed_memory
from soho.search.first_stage import GRAPH_FROM
from soho.search.measure import TOP, measure
from soho.search.picture_index import RERANK, PictureIndex
from soho.search.show import as_json, as_lines, read_queries, write_page


def update_index(pictures: Path, model: Path, out: Path, *, graph: bool, **options: Any) -> list[str]:
    """Make an index or bring it up to date, and say what was done; on a CPU this process keeps freed memory.

    Args:
        pictures: folder of the library.
        model: folder.
        out: folder of the index.
        graph: make a graph of nearest neighbours where the library is large.
        **options: of `PictureIndex.build`.

    Raises:
        SohoError: see `PictureIndex.build`.
    """
    if str(options.get("device", "cpu")).startswith("cpu"):
        keep_freed_memory()
    index = PictureIndex.build(pictures, model, out, graph_from=GRAPH_FROM if graph else None, **options)
    assert index.last_update is not None
    return index.last_update.lines(out)


def search_index(
    folder: Path,
    texts: Sequence[str],
    queries: Path | None,
    *,
    top: int | None = None,
    rerank: int | None = None,
    exact: bool = False,
    measured: bool = False,
    json: bool = False,
    html: Path | None = None,
    **opening: Any,
) -> list[str]:
    """Search an index, or measure its two stages.

    Args:
        folder: of the index.
        texts: given one by one.
        queries: a file of further ones.
        top: pictures for each text; None: 10.
        rerank: candidates; None: 50.
        exact: score every picture.
        measured: measure instead of searching.
        json: return JSON.
        html: a page to write, too.
        **opening: options of `PictureIndex.open`.

    Raises:
        SohoError: no text, or options that contradict each other; see also `PictureIndex.open` and
            `PictureIndex.search`.
    """
    rows = [*texts, *(read_queries(queries) if queries is not None else [])]
    if not rows:
        raise SohoError("there is no text to search for; give one, or a file of them with --queries")
    load = functools.partial(PictureIndex.open, folder, **opening)
    given = {"--top": top is not None, "--rerank": rerank is not None, "--exact": exact, "--html": html is not None}
    if measured and any(given.values()):
        named = ", ".join(name for name, is_given in given.items() if is_given)
        raise SohoError(f"--measure tries fixed numbers of candidates and shows no pictures; leave out {named}")
    if measured:
        figures, _ = measure(folder, rows, load, progress=True)
        return [json_module.dumps(figures.as_dict(), indent=1)] if json else figures.lines()
    index = load()
    top, rerank = TOP if top is None else top, RERANK if rerank is None else rerank
    results = index.search(rows, top=top, rerank=rerank, exact=exact, progress=exact)
    if html is not None:
        write_page(html, rows, results, f"{folder.name}: {len(index):,} pictures")
    return [as_json(rows, results)] if json else as_lines(rows, results)
