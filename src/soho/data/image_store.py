"""Finding pictures by name in folders and zip files."""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from soho.data.schema import ImageRef
from soho.errors import SohoError


class _Place:
    """A folder or zip file, with an index of its file names that is built when first needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._index: dict[str, list[str]] | None = None
        self._names_by_stem: dict[str, str] | None = None

    @property
    def index(self) -> dict[str, list[str]]:
        """Every file under its base name: relative paths with forward slashes, sorted."""
        if self._index is None:
            index: dict[str, list[str]] = {}
            for name in sorted(self._names()):
                index.setdefault(name.rsplit("/", 1)[-1], []).append(name)
            self._index = index
        return self._index

    def find(self, name: str) -> ImageRef | None:
        """Return the one file whose path is `name` or ends in it."""
        if self._has(name):
            return self._ref(name)
        # A row may repeat the location's own last folder ("images/a.jpg" in the location ".../images"), so the
        # comparison is with the whole path, the location included.
        prefix = "/" + Path(self.path).with_suffix("").as_posix().strip("/")
        hits = [
            known for known in self.index.get(name.rsplit("/", 1)[-1], ()) if f"{prefix}/{known}".endswith("/" + name)
        ]
        if len(hits) > 1:
            shown = ", ".join(hits[:3]) + (", ..." if len(hits) > 3 else "")
            raise SohoError(
                f'the image name "{name}" stands for {len(hits)} files in {self.path} ({shown}); '
                "write the folder in front of the name"
            )
        return self._ref(hits[0]) if hits else None

    def similar(self, name: str) -> str | None:
        """Return a known name that differs from `name` only in case or file extension."""
        if self._names_by_stem is None:
            self._names_by_stem = {_stem(base): paths[0] for base, paths in self.index.items()}
        return self._names_by_stem.get(_stem(name.rsplit("/", 1)[-1]))

    def _names(self) -> Iterator[str]:
        raise NotImplementedError

    def _has(self, name: str) -> bool:
        raise NotImplementedError

    def _ref(self, name: str) -> ImageRef:
        raise NotImplementedError


class _Folder(_Place):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._top: set[str] | None = None

    def _has(self, name: str) -> bool:
        if "/" in name:
            return os.path.isfile(os.path.join(self.path, name))
        if self._top is None:  # one listing is far cheaper than one stat per image on a network drive
            with os.scandir(self.path) as entries:
                self._top = {entry.name for entry in entries if not entry.is_dir()}
        return name in self._top

    def _ref(self, name: str) -> ImageRef:
        return ImageRef(os.path.join(self.path, name))

    def _names(self) -> Iterator[str]:
        seen: set[str] = set()  # real folders: a symbolic link may lead back up
        stack = [""]
        while stack:
            relative = stack.pop()
            folder = os.path.join(self.path, relative)
            if (real := os.path.realpath(folder)) in seen:
                continue
            seen.add(real)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = posixpath.join(relative, entry.name)
                    if entry.is_dir():
                        stack.append(name)
                    else:
                        yield name


class _Archive(_Place):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._members: frozenset[str] | None = None

    def _has(self, name: str) -> bool:
        if self._members is None:
            self._members = frozenset(self._names())
        return name in self._members

    def _ref(self, name: str) -> ImageRef:
        return ImageRef(name, archive=self.path)

    def _names(self) -> Iterator[str]:
        with zipfile.ZipFile(self.path) as archive:
            for name in archive.namelist():
                # macOS adds a shadow "._name" of every file; it ends in the same name but is no picture.
                if not name.endswith("/") and not name.rsplit("/", 1)[-1].startswith("._"):
                    yield name


class ImageStore:
    """Looks pictures up by name in folders and zip files, without unpacking anything.

    Only names are kept, no open files, so a store may be pickled and used after a fork.

    Args:
        locations: folders and `.zip` files; the first that has a picture wins.

    Raises:
        SohoError: a location does not exist, or is neither a folder nor a zip file.
    """

    def __init__(self, locations: Sequence[Path | str]) -> None:
        self.locations: tuple[str, ...] = tuple(str(location) for location in locations)
        self._places: list[_Place] = []
        for path in self.locations:
            if os.path.isdir(path):
                self._places.append(_Folder(path))
            elif not os.path.exists(path):
                raise SohoError(f"images: {path} does not exist; expected a folder or a .zip file of pictures")
            elif zipfile.is_zipfile(path):
                self._places.append(_Archive(path))
            else:
                raise SohoError(f"images: {path} is neither a folder nor a readable .zip file")

    def find(self, file_name: str) -> ImageRef | None:
        """Return where a picture is, or None.

        The name is first taken as the exact path inside a location, then as the end of a path in it, so that
        `a.jpg` finds `photos/a.jpg`. A folder written in front of the name must agree.

        Args:
            file_name: name as the annotation file writes it; an absolute path is taken as it is.

        Raises:
            SohoError: the name stands for several files of one location.
        """
        if os.path.isabs(file_name):
            return ImageRef(file_name) if os.path.isfile(file_name) else None
        name = posixpath.normpath(file_name.replace("\\", "/"))
        for place in self._places:
            if (ref := place.find(name)) is not None:
                return ref
        return None

    def base_names(self) -> Iterator[str]:
        """Yield the names of all files without their folders, place by place."""
        for place in self._places:
            yield from place.index

    def similar(self, file_name: str) -> str | None:
        """Return the name of a picture that is there and differs only in case or extension, or None."""
        for place in self._places:
            if (name := place.similar(file_name.replace("\\", "/"))) is not None:
                return name
        return None

    def __str__(self) -> str:
        return ", ".join(self.locations)


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0].lower()
