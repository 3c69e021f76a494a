"""Patches for every code of a visual dictionary, cut from the pictures of an index while the server answers."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from soho.inspection.code_map import code_map, read_size
from soho.inspection.dictionary import CellReservoir, cut_cell
from soho.pipelines import SohoPipeline
from soho.serving.pictures import as_jpeg

# Patches of a code, and their edge in pixels: some 3 kB each.
PATCHES, EDGE = 8, 96


@dataclass(frozen=True)
class CodeEntry:
    """What is known of a code so far.

    Attributes:
        code: its index.
        hits: cells that have it.
        images: pictures that have it.
        share: of all cells.
        patches: JPEG files, each of another picture.
    """

    code: int
    hits: int
    images: int
    share: float
    patches: tuple[bytes, ...]


class CodeBook:
    """Counts codes over pictures and keeps patches of each.

    Args:
        pipeline: a model with a visual dictionary.
        total: pictures that will be added.

    Attributes:
        read: pictures that were added.
    """

    def __init__(self, pipeline: SohoPipeline, total: int) -> None:
        self.pipeline, self.total, self.read = pipeline, total, 0
        self.size = int(pipeline.model.config.dictionary_size)
        self._reservoir = CellReservoir(PATCHES)
        self._patches: dict[int, list[bytes]] = {}

    def add(self, picture: Image.Image) -> None:
        """Look at a picture.

        Raises:
            SohoError: the model cannot read it.
        """
        grid = code_map(self.pipeline, picture)
        size = read_size(self.pipeline, picture)
        for code, place, _, row, column in self._reservoir.add(self.read, grid, grid >= 0):
            patch = as_jpeg(cut_cell(picture, row, column, size, patch_size=EDGE), EDGE)
            self._patches.setdefault(code, [])[place : place + 1] = [patch]
        self.read += 1

    def entry(self, code: int) -> CodeEntry:
        """Return what is known of a code; any thread may ask."""
        seen = self._reservoir.entry(code)
        return CodeEntry(code, seen.hits, seen.images, seen.share, tuple(self._patches.get(code, ())))
