"""The pictures that a user names on the command line: folders, zip files and single files, in a fixed order."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from soho.data.image_store import ImageStore
from soho.data.schema import ImageRef
from soho.errors import SohoError


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the file suffixes that Pillow reads, in lower case with the dot."""
    Image.init()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


class PictureList(ImageStore):
    """All pictures of some places, and a store in which annotation files find them by name.

    Files of a folder or zip whose suffix is none of a picture are passed over. A file named by itself is taken
    whatever its suffix. Only names are kept.

    Args:
        locations: folders, `.zip` files and files.

    Attributes:
        refs: the pictures, each once: place by place in the order given, by path inside a place.

    Raises:
        SohoError: a location does not exist, or there is no picture.
    """

    def __init__(self, locations: Sequence[Path | str]) -> None:
        for location in map(Path, locations):
            if not location.exists():
                raise SohoError(
                    f"images: {location} does not exist; expected a picture, a folder or a .zip file of pictures"
                )
        single = [str(path) for path in locations if not _is_place(Path(path))]
        super().__init__([path for path in locations if _is_place(Path(path))])
        self.refs: list[ImageRef] = []
        for path in map(str, locations):
            if path in single:
                self.refs.append(ImageRef(path))
                continue
            place = next(place for place in self._places if place.path == path)
            for name in sorted(name for names in place.index.values() for name in names):
                if Path(name).suffix.lower() in picture_suffixes():
                    self.refs.append(place._ref(name))
        self.refs = list(dict.fromkeys(self.refs))
        if not self.refs:
            raise SohoError(f"images: no picture in {', '.join(map(str, locations))}; expected files that Pillow reads")
        self._single = [ImageRef(path) for path in single]

    def find(self, file_name: str) -> ImageRef | None:
        """Return where a picture is, or None; see `ImageStore.find`. Single files are found by the end of their path.

        Raises:
            SohoError: the name stands for several files.
        """
        wanted = "/" + Path(file_name).as_posix().lstrip("/")
        hits = [ref for ref in self._single if ("/" + Path(ref.path).as_posix().lstrip("/")).endswith(wanted)]
        if len(hits) > 1:
            raise SohoError(
                f'the image name "{file_name}" stands for {len(hits)} of the pictures given '
                f"({', '.join(map(str, hits[:3]))}); write the folder in front of the name"
            )
        return hits[0] if hits else super().find(file_name)


def _is_place(path: Path) -> bool:
    return path.is_dir() or zipfile.is_zipfile(path)
