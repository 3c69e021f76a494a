"""All that a server holds while it runs: models, index, codes, examples, and the threads that work for it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np

from soho.data.images import decode
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.search import PictureIndex, picture_of
from soho.serving.codebook import CodeBook
from soho.serving.desk import Desk
from soho.serving.examples import Clickable
from soho.serving.limits import Settings
from soho.serving.pictures import as_jpeg
from soho.serving.shelf import Shelf
from soho.serving.verbs import VERBS

logger = logging.getLogger(__name__)
# Small pictures that may be asked for at a time; a page asks for those of one search.
PICTURE_PLACES = 128
# Edge in pixels of a picture of the index: among the results, and as input of another question.
SIZES = {"small": 360, "large": 1000}

NEEDS = {
    "search": "Search needs an index: make one with `soho index PICTURES --model MODEL --out INDEX` and start "
    "`soho serve` with --index INDEX.",
    "codes": "The codes of a picture need a model with a visual dictionary: a pre-training model, or one that was "
    "fine-tuned from it in the paper's wiring.",
    "patches": "The patches of a code are cut from the pictures of an index: start `soho serve` with --index INDEX.",
    "inspect": "Looking inside needs a model of any task.",
} | {verb: f"This needs {model} among the models that `soho serve` is given." for verb, model in VERBS.items()}


class House:
    """What the API answers from.

    Args:
        shelf: the models.
        index: folder of the index, None: no search.
        examples: ready to click.
        settings: of the server.
        device: where the index's own model computes, if it is not on the shelf.
        trust_remote_code: let that model's own CNN code run.

    Attributes:
        desk: whose thread computes with models and reads the index.
        pictures: whose thread makes small pictures.
        book: codes and their patches, None where no model has a dictionary.

    Raises:
        SohoError: the index cannot be opened.
    """

    def __init__(
        self,
        shelf: Shelf,
        index: Path | None = None,
        examples: list[Clickable] | None = None,
        settings: Settings | None = None,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.shelf, self.index_folder, self.examples = shelf, index, examples or []
        self.settings = settings or Settings()
        self.limits = self.settings.limits
        self.desk = Desk("soho", self.limits.waiting + 1)
        self.pictures = Desk("soho-pictures", PICTURE_PLACES)
        self.index = None if index is None else self.desk.wait_for(lambda: self._open(index, device, trust_remote_code))
        entries = self.index.entries() if self.index is not None else np.zeros(0, dtype=np.int64)
        count = min(len(entries), self.settings.corpus)
        spread = np.linspace(0, max(0, len(entries) - 1), count).round().astype(int)
        self.corpus = [int(entries[place]) for place in spread]
        self.book = CodeBook(shelf.codes, len(self.corpus)) if shelf.codes is not None else None

    def _open(self, folder: Path, device: str, trust_remote_code: bool) -> PictureIndex:
        """Open the index with a model that is here already where that is its own, else with the one it remembers."""
        for pipeline in self.shelf.exact.values():
            if any(ability.verb == "match" for ability in pipeline.abilities):
                try:
                    return PictureIndex.open(folder, pipeline, fast=self.settings.fast)
                except SohoError as error:
                    logger.info("not with %s: %s", pipeline.folder, error)
        return PictureIndex.open(
            folder,
            fast=self.settings.fast,
            device=device,
            trust_remote_code=trust_remote_code,
            advice="name its folder among the MODELs",
        )

    def needs(self) -> dict[str, str]:
        """Return for everything that can be asked what it needs; an empty text where that is there."""
        there = {verb: verb in self.shelf.folders for verb in VERBS} | {
            "search": self.index is not None,
            "inspect": bool(self.shelf.folders),
            "codes": self.book is not None,
            "patches": self.book is not None and self.index is not None,
        }
        return {name: "" if ready else NEEDS[name] for name, ready in there.items()}

    async def read_corpus(self) -> None:
        """Add the corpus to the book, picture by picture, between the requests."""
        book, folder = self.book, self.index_folder
        if book is None or folder is None:
            return
        broken = 0

        def add(entry: int) -> bool:
            try:
                book.add(decode(ImageRef(str(picture_of(folder, entry)))))
            except SohoError as error:
                logger.info("left out of the corpus: %s", error)
                return False
            except Exception:  # one picture must not end the reading of the others
                logger.exception("picture %s of the index is left out of the corpus", entry)
                return False
            return True

        for entry in self.corpus:
            done, _ = await self.desk.run(lambda entry=entry: add(entry), counts=False)  # type: ignore[misc]
            broken += not done
            book.total = len(self.corpus) - broken
            await asyncio.sleep(0)

    def small_picture(self, entry: int, edge: int) -> bytes:
        """Return a picture of the index as JPEG, without its metadata.

        Raises:
            SohoError: there is no such picture.
        """
        assert self.index_folder is not None
        return as_jpeg(decode(ImageRef(str(picture_of(self.index_folder, entry)))), edge)

    def close(self) -> None:
        """End the threads."""
        self.desk.close()
        self.pictures.close()
