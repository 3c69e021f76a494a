"""The world's pictures under captions that can be told apart: every caption is a number of its own, in digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from soho.tasks import PretrainingTask, RetrievalTask
from soho.training.recipe import load_recipe
from tests.tiny_recipes import REGIONS, captions, tiny_values, write_recipe

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# 84 pictures keep 1, 2, 3, 4, 5, 1, ... captions: 16 x 15 + 1 + 2 + 3 + 4.
FIRST_REGION = 250


def spelt(number: int) -> str:
    """Return the digits of a number as words."""
    return " ".join(DIGITS[int(digit)] for digit in str(number))


def write_numbered(world: Path, out: Path) -> dict[int, str]:
    """Write Karpathy and Visual Genome files with numbers for captions; returns number -> photo key.

    The k-th picture keeps 1 + (k modulo 5) captions and its six regions.
    """
    (out / "annotations").mkdir(parents=True)
    (out / "images").symlink_to(world / "images")
    photos: dict[int, str] = {}
    karpathy = json.loads((world / "annotations" / "dataset_coco.json").read_text())
    for position, image in enumerate(karpathy["images"]):
        image["sentences"] = image["sentences"][: 1 + position % 5]
        for sentence in image["sentences"]:
            sentence["raw"] = spelt(len(photos))
            photos[len(photos)] = f"coco:{image['cocoid']}"
    assert len(photos) == FIRST_REGION
    regions = json.loads((world / "annotations" / "region_descriptions.json").read_text())
    details = json.loads((world / "annotations" / "image_data.json").read_text())
    photo_of = {image["image_id"]: f"coco:{image['coco_id']}" for image in details}
    for image in regions:
        for region in image["regions"]:
            region["phrase"] = spelt(len(photos))
            photos[len(photos)] = photo_of[region["image_id"]]
    (out / "annotations" / "dataset_coco.json").write_text(json.dumps(karpathy))
    (out / "annotations" / "region_descriptions.json").write_text(json.dumps(regions))
    (out / "annotations" / "image_data.json").write_text(json.dumps(details))
    return photos


class Numbers:
    """Reads captions back from token ids."""

    def __init__(self, task: PretrainingTask | RetrievalTask, photos: dict[int, str]) -> None:
        self.photos = photos
        self.by_ids = {tuple(task.processor.encode(spelt(number))): number for number in photos}
        assert len(self.by_ids) == len(photos)

    def of(self, ids: Any) -> int:
        """Return the number that token ids (not masked, padding removed) spell."""
        return self.by_ids[tuple(int(value) for value in ids)]

    def photo(self, ids: Any) -> str:
        """Return the photo key of the caption that token ids spell."""
        return self.photos[self.of(ids)]


def numbered_task(kind: type[Any], root: Path, *overrides: str, regions: bool = False) -> Any:
    """Return a task on the numbered captions, with next to no masking so that they can be read back."""
    name = "pretraining" if kind is PretrainingTask else "retrieval"
    values = tiny_values(name, root, root / "run")
    if regions:
        values["data"]["train"] = [captions("train"), dict(REGIONS)]
    values["data"]["mask_probability"] = 1e-12
    return kind(load_recipe(write_recipe(root / f"{name}.yaml", values), overrides))
