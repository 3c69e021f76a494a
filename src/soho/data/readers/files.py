"""Opening annotation files as they are published: plain, gzip or inside a zip, JSON or lines of text."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from soho.errors import SohoError

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 22
_LONGEST_ELEMENT = 1 << 26  # characters; beyond it the text is taken for damaged, not for unfinished


def open_binary(path: Path) -> BinaryIO:
    """Open an annotation file for reading bytes, unpacking gzip and zip.

    `archive.zip` is taken where it holds one file; `archive.zip!member` names one of several.

    Raises:
        SohoError: the file is not there, is a folder, or is a zip of several files and none is named.
    """
    archive, mark, member = str(path).partition(".zip!")
    if mark:
        return _open_member(Path(archive + ".zip"), member)
    _require_file(path)
    if zipfile.is_zipfile(path):
        return _open_member(path, None)
    with open(path, "rb") as probe:
        zipped = probe.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else open(path, "rb")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 text file.

    Raises:
        SohoError: the file cannot be opened, or a line is not UTF-8 text (the message gives its number).
    """
    for number, raw in read_raw_lines(path):
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError:
            raise SohoError(f"{path}:{number}: not UTF-8 text; save the file as UTF-8") from None


def read_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes without the line end); a byte-order mark is taken off."""
    with open_binary(path) as stream:
        try:
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                yield number, raw.rstrip(b"\r\n")
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise SohoError(f"{path}: the compressed file is damaged or cut off ({error})") from None


def read_names(path: Path) -> list[str]:
    """Return the names of a split list: one a line, empty lines left out, in file order."""
    names = [line.strip() for _, line in read_lines(path) if line.strip()]
    if not names:
        raise SohoError(f"{path}: empty; expected one image name a line")
    return names


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        SohoError: the file cannot be opened or is not JSON; the message says where.
    """
    with open_binary(path) as stream:
        try:
            return json.loads(stream.read())
        except json.JSONDecodeError as error:
            raise SohoError(_not_json(path, error)) from None
        except UnicodeDecodeError:
            raise SohoError(f"{path}: not JSON: the file is not text") from None
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise SohoError(f"{path}: the compressed file is damaged or cut off ({error})") from None


def iterate_json_list(path: Path, expected: str) -> Iterator[Any]:
    """Yield the elements of a file that is one JSON list, holding one element in memory at a time.

    Visual Genome's region descriptions are 700 MB; read whole they need several gigabytes.

    Args:
        path: the file.
        expected: what the file should be, for the message where it is something else.

    Raises:
        SohoError: the file cannot be opened, is not JSON, or is not a list.
    """
    decoder = json.JSONDecoder()
    with open_binary(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as text:
        buffer = ""
        while not buffer and (chunk := _read_text(text, path)):
            buffer = chunk.lstrip()
        if not buffer.startswith("["):
            raise SohoError(f"{path} is {describe(read_json(path))}, but {expected} was expected")
        position, count = 1, 0
        while True:
            position = _between_elements(buffer, position)
            if buffer.startswith("]", position):
                return
            try:
                element, position = decoder.raw_decode(buffer, position)
            except json.JSONDecodeError as error:
                buffer, position = buffer[position:], 0
                chunk = _read_text(text, path) if len(buffer) < _LONGEST_ELEMENT else ""
                if not chunk:
                    raise SohoError(
                        f"{path}: not JSON after element {count} of the list ({error.msg}); is the file cut off?"
                    ) from None
                buffer += chunk
            else:
                count += 1
                yield element


def _read_text(text: io.TextIOWrapper, path: Path) -> str:
    try:
        return text.read(_CHUNK)
    except UnicodeDecodeError:
        raise SohoError(f"{path}: not JSON: the file is not text") from None
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise SohoError(f"{path}: the compressed file is damaged or cut off ({error})") from None


def _between_elements(buffer: str, position: int) -> int:
    while position < len(buffer) and buffer[position] in " \t\r\n,":
        position += 1
    return position


def recognise(content: Any) -> str | None:
    """Return the name of the upstream format that the content of a file has, or None."""
    if isinstance(content, Mapping):
        lists = (
            ("questions", "question", "a VQA v2 questions file"),
            ("annotations", "answers", "a VQA v2 annotations file"),
            ("annotations", "caption", "a COCO captions file"),
            ("annotations", "bbox", "a COCO instances file (boxes, no captions)"),
            ("images", "sentences", "a Karpathy split file"),
        )
        return next((name for key, inner, name in lists if _first_has(content.get(key), inner)), None)
    keys = (
        ("regions", "a Visual Genome region descriptions file"),
        ("qas", "a Visual Genome question answers file"),
        ("coco_id", "a Visual Genome image_data file"),
        ("caption", "a COCO caption results file"),
    )
    return next((name for key, name in keys if _first_has(content, key)), None)


def describe(content: Any) -> str:
    """Say in a few words what the content of a file is."""
    if (name := recognise(content)) is not None:
        return name
    if isinstance(content, Mapping):
        keys = ", ".join(f'"{key}"' for key in list(content)[:6]) + (", ..." if len(content) > 6 else "")
        return f"an object with the keys {keys}" if content else "an empty object"
    if isinstance(content, list):
        return f"a list of {len(content)} {type_name(content[0])}s" if content else "an empty list"
    return f"a single {type_name(content)}"


def type_name(value: Any) -> str:
    """Return the JSON name of a value's type: string, number, list, object, true/false value, null."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false value"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, Mapping):
        return "object"
    return "list" if isinstance(value, list) else "string"


def a_type(value: Any) -> str:
    """Return the JSON type with its article: "a string", "an object", "null"."""
    name = type_name(value)
    return name if value is None else f"{'an' if name[0] == 'o' else 'a'} {name}"


def _first_has(content: Any, key: str) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], Mapping) and key in content[0]


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise SohoError(f"{path} is a folder; expected an annotation file")
    if not path.exists():
        raise SohoError(f"{path} does not exist")


def _open_member(path: Path, member: str | None) -> BinaryIO:
    _require_file(path)
    try:
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
        if member is None:
            if len(names) != 1:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                advice = f"; name one as {path}!{names[0]}" if names else ""
                raise SohoError(f"{path} holds {len(names)} files ({shown or 'none'}){advice}")
            member = names[0]
        if member not in names:
            raise SohoError(f"{path} holds no member {member}; it holds {', '.join(names[:5])}")
        return cast(BinaryIO, archive.open(member))
    except zipfile.BadZipFile as error:
        raise SohoError(f"{path}: not a readable zip file ({error})") from None


def _not_json(path: Path, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data" and error.lineno > 1:
        return f"{path}: not one JSON value but several lines of them; JSON Lines are read with format: jsonl"
    return f"{path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
