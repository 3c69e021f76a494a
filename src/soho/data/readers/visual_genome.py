"""Visual Genome: `region_descriptions.json` with `image_data.json` (https://homes.cs.washington.edu/~ranjay/visualgenome)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import a_type, describe, iterate_json_list, read_json
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, identifier, objects, pixels, shown, text_of
from soho.data.schema import CaptionedImage
from soho.errors import SohoError

_REGIONS = "Visual Genome's region_descriptions.json ([{id, regions: [{region_id, phrase}, ...]}, ...])"
_IMAGE_DATA = "Visual Genome's image_data.json ([{image_id, url, width, height, coco_id}, ...])"


def read_captions(
    annotations: Path,
    images: ImageStore,
    *,
    image_data: Path | None = None,
    name: str = "visual_genome",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read region descriptions as the captions of their images, in file order.

    Args:
        annotations: `region_descriptions.json`; read as a stream.
        images: where the photos are: `VG_100K/<id>.jpg` and `VG_100K_2/<id>.jpg`, or all in one place.
        image_data: `image_data.json`, which gives sizes, folders and the COCO ids of photos that are in COCO too.
        name: data-set name for messages.
        limit: only the first n images.
        on_missing: what to do with images that are not found and phrases that are empty.

    Raises:
        SohoError: a file is something else, rows are broken, or something is missing under "error".
    """
    details = {} if image_data is None else read_image_data(image_data)
    reading = Reading(name, annotations, images, on_missing)
    if image_data is None:
        reading.notes.remarks.append(
            "no image_data file is given, so photographs that are also in COCO cannot be recognised"
        )
    result: list[CaptionedImage] = []
    seen: set[str] = set()
    for index, row in enumerate(iterate_json_list(annotations, _REGIONS)):
        if limit is not None and len(result) >= limit:
            break
        where = f"[{index}]"
        if index == 0 and not (isinstance(row, Mapping) and "regions" in row):
            raise SohoError(f"{annotations} is {describe([row])}, but {_REGIONS} was expected")
        if not isinstance(row, Mapping) or not isinstance(row.get("regions"), list):
            reading.broken(where, f'an object with a list "regions" was expected, found {a_type(row)}')
            continue
        reading.notes.rows += 1
        image_id = _image_id(row, where, reading)
        if image_id is None:
            continue
        if image_id in seen:
            reading.broken(where, f"the image id {image_id} was used before")
            continue
        seen.add(image_id)
        phrases = _phrases(row["regions"], where, reading)
        if not phrases:
            reading.drop("image without region descriptions", image_id)
            continue
        detail = details.get(image_id, {})
        if (ref := reading.find(*_file_names(image_id, detail))) is None:
            continue
        ids, texts = zip(*phrases)
        width, height = pixels(detail, "width"), pixels(detail, "height")
        result.append(CaptionedImage(image_id, photo_key(image_id, details), ref, texts, ids, width, height))
    return result, reading.finish(len(result), sum(len(item.captions) for item in result))


def photo_key(image_id: str, details: Mapping[str, Mapping[str, Any]]) -> str:
    """Return `coco:<id>` for a photograph that COCO has too, else `vg:<id>`; see `read_image_data`."""
    coco_id = details.get(image_id, {}).get("coco_id")
    return f"vg:{image_id}" if coco_id is None else f"coco:{coco_id}"


def read_image_data(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return image id -> record (width, height, url, coco_id) of `image_data.json`.

    Raises:
        SohoError: the file is something else.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise SohoError(f"{path} is {describe(content)}, but {_IMAGE_DATA} was expected")
    details: dict[str, Mapping[str, Any]] = {}
    for index, row in enumerate(content):
        image_id = row.get("image_id", row.get("id"))
        coco_id = row.get("coco_id")
        if image_id is None or "regions" in row or "qas" in row:
            raise SohoError(f"{path} is {describe(content)}, but {_IMAGE_DATA} was expected")
        if coco_id is not None and (not isinstance(coco_id, int) or isinstance(coco_id, bool)):
            raise SohoError(f'{path}, [{index}]: "coco_id" must be a number or null, found {shown(coco_id)}')
        details[str(image_id)] = row
    return details


def _image_id(row: Mapping[str, Any], where: str, reading: Reading) -> str | None:
    """Return the image id: under `id`, in other releases under `image_id`, or only in the regions."""
    if "id" not in row and "image_id" not in row and row["regions"] and isinstance(row["regions"][0], Mapping):
        return identifier(row["regions"][0], ("image_id",), where, reading)
    return identifier(row, ("id", "image_id"), where, reading)


def _phrases(regions: list[Any], where: str, reading: Reading) -> list[tuple[str, str]]:
    pairs = []
    for inner, region in objects(regions, f"{where}.regions", reading):
        region_id = identifier(region, ("region_id", "id"), inner, reading)
        phrase = text_of(region, "phrase", inner, f"region {region_id}", reading)
        if region_id is not None and phrase is not None:
            pairs.append((region_id, phrase))
    return pairs


def _file_names(image_id: str, detail: Mapping[str, Any]) -> tuple[str, ...]:
    """Return names to try: plain, and in the folder that the photo's address names."""
    url = detail.get("url")
    plain = f"{image_id}.jpg"
    return (plain, "/".join(url.split("/")[-2:])) if isinstance(url, str) and "/" in url else (plain,)
