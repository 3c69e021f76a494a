"""A look at the visual dictionary over given pictures: what shares a code, how codes are used, which words go along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from soho.data.images import ImageDecodeError, decode
from soho.data.picture_list import PictureList
from soho.data.readers.reading import plural, shorten
from soho.data.schema import ImageRef
from soho.data.sources import Source, load_captions
from soho.errors import SohoError
from soho.inspection.code_map import code_map, dictionary_size, read_size, reads_codes
from soho.inspection.code_words import telling_words, words_of
from soho.inspection.contact_sheet import contact_sheet
from soho.inspection.curves import format_value
from soho.inspection.dictionary import CellReservoir, CodeHealth, CodePatches, cut_cell, most_used_codes
from soho.inspection.report import DictionaryPatches, Section, write_report
from soho.pipelines import SohoPipeline
from soho.randomness import keyed_generator

Order = Literal["random", "use"]
_NAMES_KEPT = 20
NEAREST = (
    "This model reads the features before the dictionary: shown is the code nearest to each feature, and the CNN may "
    "have moved on since the codes did."
)
WORDS = (
    "Beside each index stand the words that captions of its images say more often than others (log-likelihood ratio, "
    "beyond chance after a correction for the number of words), and how many times as often."
)


@dataclass
class DictionaryStudy:
    """What a dictionary does with some pictures.

    Attributes:
        counts: (K,) cells that have each code.
        images: (K,) pictures that have each code.
        health: how the codes are used.
        codes: the chosen codes with patches, and words where captions were given.
        pictures: pictures that were read.
        captioned: those of them with captions; None: no captions were given.
        broken: pictures that could not be read.
        broken_names: the first 20 of them.
        notes: what a reader should know, one sentence each.
    """

    counts: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    health: CodeHealth
    codes: list[CodePatches]
    pictures: int
    captioned: int | None = None
    broken: int = 0
    broken_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return figures and notes for a console."""
        health = self.health
        seen = f"{plural(self.pictures, 'picture')}, {int(self.counts.sum()):,} cells"
        lines = [
            seen if self.captioned is None else f"{seen}, {self.captioned:,} of the pictures with captions",
            f"{health.used:,} of {health.size:,} codes used, {health.dead:,} dead, perplexity "
            f"{format_value(health.perplexity)}, most used code {health.majority_share:.1%} of cells",
        ]
        if self.broken:
            lines.append(f"{plural(self.broken, 'broken picture')} left out: {shorten(self.broken_names, self.broken)}")
        return [*lines, *self.notes]


def captions_among(pictures: PictureList, sources: Sequence[Source]) -> tuple[dict[ImageRef, list[str]], list[str]]:
    """Read the captions of some pictures.

    Args:
        pictures: where the pictures are; those of the sources themselves are not opened.
        sources: entries of a recipe, or one `jsonl` file; pictures they name that are not given are left out.

    Returns:
        Picture -> its captions, and what became of sources that gave none.

    Raises:
        SohoError: no source has a caption of any picture; the sentence is that of the first source.
    """
    known = set(pictures.refs)
    found: dict[ImageRef, list[str]] = {}
    failed: list[SohoError] = []
    for source in sources:
        try:
            examples, _ = load_captions(source.model_copy(update={"on_missing": "skip"}), images=pictures)
        except SohoError as error:
            failed.append(error)
            continue
        for example in examples:
            if example.image in known:
                found.setdefault(example.image, []).extend(example.captions)
    if not found:
        raise failed[0] if failed else SohoError("no captions: the recipe names no data")
    return found, [f"captions that were not used: {error}" for error in failed]


def study_dictionary(
    pipeline: SohoPipeline,
    pictures: Sequence[ImageRef],
    captions: Mapping[ImageRef, Sequence[str]] | None = None,
    *,
    codes: int = 12,
    per_code: int = 8,
    order: Order = "random",
    patch_size: int = 96,
    context: float = 0.5,
    seed: int = 0,
    progress: bool = True,
) -> DictionaryStudy:
    """Look at a model's dictionary over pictures.

    Every picture is read once. Kept are the places of at most `per_code` cells a code; the pictures of the chosen
    codes are opened once more and cut. With captions the codes and words of captioned pictures are kept too.

    Args:
        pipeline: a model with a visual dictionary.
        pictures: where the pictures are.
        captions: picture -> its captions.
        codes: how many codes to show.
        per_code: patches per code, each of another picture.
        order: "use" shows the most used codes, "random" draws among those in use.
        patch_size: edge of a patch in pixels, cut from the picture in its own size.
        context: how much of the neighbourhood a patch shows at each side, as a share of a cell.
        seed: of the draws.
        progress: show a progress bar.

    Returns:
        See `DictionaryStudy`.

    Raises:
        SohoError: the model has no dictionary, `codes` or `per_code` is below 1, or no picture could be read.
    """
    if codes < 1 or per_code < 1:
        raise SohoError(f"codes={codes} and per_code={per_code} must be at least 1")
    size = dictionary_size(pipeline)
    reservoir = CellReservoir(per_code, seed)
    described: list[tuple[frozenset[int], frozenset[str]]] = []
    broken: list[str] = []
    for number, ref in enumerate(tqdm(pictures, "codes", unit="image", dynamic_ncols=True, disable=not progress)):
        try:
            grid = code_map(pipeline, decode(ref))
        except ImageDecodeError as error:
            broken.append(str(error))
            continue
        reservoir.add(number, grid, grid >= 0)
        if captions and ref in captions:
            own = frozenset(int(code) for code in np.unique(grid[grid >= 0]))
            described.append((own, frozenset(words_of(captions[ref]))))
    if len(broken) == len(pictures):
        raise SohoError(f"none of {plural(len(broken), 'picture')} could be read; the first is {broken[0]}")
    counts = _table(reservoir.hits, size)
    chosen = choose_codes(counts, codes, order, seed)
    entries = [reservoir.entry(code) for code in chosen]
    _cut(pipeline, pictures, reservoir, entries, patch_size, context, progress)
    if captions is not None:
        words = telling_words(described, chosen)
        entries = [replace(entry, words=words[entry.code]) for entry in entries]
    return DictionaryStudy(
        counts,
        _table(reservoir.images, size),
        CodeHealth.of(counts),
        entries,
        len(pictures) - len(broken),
        None if captions is None else len(described),
        len(broken),
        broken[:_NAMES_KEPT],
        [] if reads_codes(pipeline) else [NEAREST],
    )


def choose_codes(counts: npt.ArrayLike, number: int, order: Order, seed: int = 0) -> list[int]:
    """Choose up to `number` codes that were hit.

    Args:
        counts: (K,) cells that have each code.
        number: how many.
        order: "use": by falling count; "random": drawn with equal chance, told by rising index.
        seed: of the draw.

    Raises:
        SohoError: `order` is neither.
    """
    check_order(order)
    if order == "use":
        return most_used_codes(counts, number)
    used = np.flatnonzero(np.asarray(counts))
    drawn = keyed_generator(seed, "dictionary codes").permutation(used)[:number]
    return sorted(int(code) for code in drawn)


def check_order(order: str) -> None:
    """Say that an order is not known before a long look and not after it.

    Raises:
        SohoError: it is neither "random" nor "use".
    """
    if order not in ("random", "use"):
        raise SohoError(f"order {order!r} is not known; expected random or use")


def write_dictionary(
    study: DictionaryStudy, out: Path, title: str = "Visual dictionary", facts: str = ""
) -> list[Path]:
    """Write `dictionary.png` and `dictionary.html` into a folder.

    Args:
        study: what `study_dictionary` returned.
        out: the folder; it is made.
        title: heading of both.
        facts: what was looked at, for the page.

    Returns:
        The paths of both.
    """
    out.mkdir(parents=True, exist_ok=True)
    columns = max(len(entry.patches) for entry in study.codes)
    sheet = contact_sheet(study.codes, columns, title=title, lines=study.lines()[:2])
    sheet.save(out / "dictionary.png", optimize=True)
    with_words = [WORDS] if study.captioned is not None else []
    page = write_report(
        out / "dictionary.html",
        title,
        [Section("Codes and their patches", [DictionaryPatches(study.codes, study.health)])],
        lead=" ".join([*study.notes[:1], *with_words]),
        facts={"pictures": f"{study.pictures:,}", "cells": f"{int(study.counts.sum()):,}"}
        | ({"with captions": f"{study.captioned:,}"} if study.captioned is not None else {})
        | ({"broken pictures": f"{study.broken:,}"} if study.broken else {})
        | ({"of": facts} if facts else {}),
    )
    return [out / "dictionary.png", page]


def _table(counts: Mapping[int, int], size: int) -> npt.NDArray[np.int64]:
    table = np.zeros(size, dtype=np.int64)
    for code, count in counts.items():
        table[code] = count
    return table


def _cut(
    pipeline: SohoPipeline,
    pictures: Sequence[ImageRef],
    reservoir: CellReservoir,
    entries: Iterable[CodePatches],
    patch_size: int,
    context: float,
    progress: bool,
) -> None:
    """Fill in the patches; every picture that is needed is opened once."""
    wanted: dict[int, list[tuple[int, int, int, int]]] = {}
    patches: dict[int, dict[int, Image.Image]] = {}
    shown = list(entries)
    for entry in shown:
        for pick in reservoir.kept[entry.code]:
            wanted.setdefault(pick.image, []).append((pick.code, pick.place, pick.row, pick.column))
    for number in tqdm(sorted(wanted), "patches", unit="image", dynamic_ncols=True, disable=not progress):
        picture = decode(pictures[number])
        size = read_size(pipeline, picture)
        for code, place, row, column in wanted[number]:
            patch = cut_cell(picture, row, column, size, context=context, patch_size=patch_size)
            patches.setdefault(code, {})[place] = patch
    for entry in shown:
        entry.patches = [patches[entry.code][place] for place in sorted(patches[entry.code])]
