from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from soho.errors import SohoError
from soho.inspection.contact_sheet import contact_sheet, contact_sheets
from soho.inspection.dictionary import (
    CodeHealth,
    CodePatches,
    collect_patches,
    most_used_codes,
    spread_codes,
)

COLOURS = {0: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200)}


def painted(grid: np.ndarray, stride: int = 64) -> Image.Image:
    """An image in which each cell has the colour of its code."""
    pixels = np.array([[COLOURS[int(code)] for code in row] for row in grid], dtype=np.uint8)
    return Image.fromarray(pixels.repeat(stride, 0).repeat(stride, 1))


def test_health_by_hand() -> None:
    health = CodeHealth.of([3, 0, 1, 0])
    assert (health.size, health.used, health.dead) == (4, 2, 2)
    assert health.perplexity == pytest.approx(4 / 3**0.75)
    assert health.majority_share == 0.75
    assert CodeHealth.of([0, 0]) == CodeHealth(2, 0, 2, 0.0, 0.0)
    assert CodeHealth.of(np.full(16, 7)).perplexity == pytest.approx(16.0)


def test_choice_of_codes() -> None:
    counts = [5, 0, 9, 5, 1]
    assert most_used_codes(counts, 2) == [2, 0]
    assert most_used_codes(counts, 10) == [2, 0, 3, 4]
    assert spread_codes(counts, 2) == [2, 4]
    assert spread_codes(counts, 3) == [2, 3, 4]
    assert spread_codes([0, 0], 3) == []
    assert spread_codes(counts, 0) == []


def test_a_patch_shows_its_cell() -> None:
    grid = np.array([[0, 1, 2], [1, 1, 0]])
    (red, blue) = collect_patches([(painted(grid), grid, np.ones_like(grid))], [0, 2], context=0.0, patch_size=32)
    assert (red.code, red.hits, red.images, red.share) == (0, 2, 1, 2 / 6)
    assert (blue.hits, blue.share) == (1, 1 / 6)
    for entry in (red, blue):
        assert [patch.size for patch in entry.patches] == [(32, 32)]
        assert np.asarray(entry.patches[0]).reshape(-1, 3).tolist() == [list(COLOURS[entry.code])] * 1024


def test_context_reaches_into_the_neighbours_and_stays_inside_the_image() -> None:
    grid = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    (middle,) = collect_patches([(painted(grid), grid, np.ones_like(grid))], [0], context=0.5, patch_size=128)
    pixels = np.asarray(middle.patches[0])
    assert pixels[64, 64].tolist() == list(COLOURS[0])
    assert pixels[64, 8].tolist() == list(COLOURS[1])
    corner = np.array([[0, 1]])
    (entry,) = collect_patches([(painted(corner), corner, np.ones_like(corner))], [0], context=0.5, patch_size=64)
    assert np.asarray(entry.patches[0])[32, 8].tolist() == list(COLOURS[0])  # moved inwards, no black border


def test_padding_never_counts() -> None:
    grid = np.array([[0, 0], [0, 0]])
    (entry,) = collect_patches([(painted(grid), grid, np.array([[1, 0], [0, 0]]))], [0])
    assert (entry.hits, entry.share, len(entry.patches)) == (1, 1.0, 1)


def test_patches_are_spread_over_images_and_repeatable() -> None:
    grids = [np.full((2, 2), 1) for _ in range(40)]
    images = [Image.new("RGB", (128, 128), (number, 0, 0)) for number in range(40)]

    def shown(seed: int) -> list[int]:
        (entry,) = collect_patches(zip(images, grids, grids), [1], per_code=5, seed=seed)
        assert (entry.hits, entry.images) == (160, 40)
        return [np.asarray(patch)[0, 0, 0].item() for patch in entry.patches]

    assert len(set(shown(0))) == 5  # five different images
    assert shown(0) == shown(0)
    assert shown(0) != shown(1)
    assert max(shown(0)) > 4  # not simply the first five


def test_contact_sheet_has_a_line_per_code() -> None:
    patch = Image.new("RGB", (40, 40), (9, 9, 9))
    entries = [CodePatches(3, 10, 2, 0.25, [patch] * 3), CodePatches(7, 1, 1, 0.1, [patch])]
    sheet = contact_sheet(entries, columns=4, gap=6)
    assert sheet.size == (6 + 132 + 4 * 46, 6 + 2 * 46)
    assert sheet.getpixel((6 + 132 + 20, 6 + 20)) == (9, 9, 9)
    assert sheet.getpixel((6 + 132 + 46 + 20, 6 + 46 + 20)) != (9, 9, 9)  # the second code has one patch only
    assert len(contact_sheets([*entries, CodePatches(8)], codes_per_sheet=1)) == 2
    with pytest.raises(SohoError, match="at least one code"):
        contact_sheet([CodePatches(8)])


def test_grids_of_different_shapes_are_refused() -> None:
    with pytest.raises(SohoError, match=r"image 0 has a grid of indices \(2, 2\) but a valid mask \(1, 2\)"):
        collect_patches([(Image.new("RGB", (128, 128)), np.zeros((2, 2)), np.zeros((1, 2)))], [0])
