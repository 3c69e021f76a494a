"""Pictures of scenes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from soho.data.miniature.backgrounds import view
from soho.data.miniature.draw import boxes, draw, encode
from soho.data.miniature.layout import place
from soho.data.miniature.lexicon import BACKGROUNDS, COLORS, CRATE, KINDS, SHAPES, TEXTURES
from soho.data.miniature.scene import Scene, Thing
from soho.data.miniature.shapes import RGB, SIDES, sticker


def _scene(*things: Thing, arrangement: str = "row", order: tuple[int, ...] | None = None) -> Scene:
    order = order or tuple(range(len(things)))
    return Scene(1, "train", (256, 192), arrangement, things, order, "meadow", "fixed")


@pytest.mark.parametrize("color", COLORS)
def test_a_plain_ball_shows_its_colour_where_it_stands(color: str) -> None:
    scene = _scene(Thing("ball", color, size="large"), Thing("car", "gray"))
    spot = place(scene, 0)[0][0]
    pixel = np.asarray(draw(scene, 0))[round(spot.y + 6), round(spot.x)]
    assert np.abs(pixel.astype(int) - RGB[color]).max() < 25


def test_colours_are_far_apart() -> None:
    values = np.array([RGB[color] for color in COLORS], dtype=float)
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1) + 1e9 * np.eye(len(values))
    assert distances.min() > 70


def test_silhouettes_are_different() -> None:
    masks = [np.asarray(sticker(kind, "red", "plain")[0])[..., 3] > 200 for kind in KINDS]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one & other).sum() / (one | other).sum() < 0.86


@pytest.mark.parametrize("texture", TEXTURES)
def test_patterns_change_the_body(texture: str) -> None:
    plain = np.asarray(sticker("heart", "blue", "plain")[0]).astype(int)
    image = np.asarray(sticker("heart", "blue", texture)[0]).astype(int)
    changed = (np.abs(image - plain).max(axis=-1) > 60).mean()
    assert (changed == 0) if texture == "plain" else (0.1 < changed < 0.5)


def test_stickers_come_in_three_sides_and_the_crate_can_be_drawn() -> None:
    assert [image.size[0] for image in sticker(CRATE, "gray", "plain")] == list(SIDES)


def test_the_front_thing_hides_the_back_thing() -> None:
    things = (Thing("ball", "red"), Thing("ball", "blue"))
    pictures = [np.asarray(draw(_scene(*things, arrangement="overlap", order=o), 0)) for o in ((0, 1), (1, 0))]
    (a,), (b,) = place(_scene(*things, arrangement="overlap"), 0)
    middle = round((a.y + b.y) / 2 + 6), round((a.x + b.x) / 2)
    assert pictures[0][middle].argmax() == 0  # red in front
    assert pictures[1][middle].argmax() == 2  # blue in front


@pytest.mark.parametrize("shape", SHAPES)
def test_backgrounds_are_different_and_of_the_wanted_shape(shape: tuple[int, int]) -> None:
    means = []
    for name in BACKGROUNDS:
        picture = view(name, *shape, 0, 0)
        assert picture.size == shape
        means.append(np.asarray(picture).reshape(-1, 3).mean(axis=0))
    for i, one in enumerate(means):
        for other in means[:i]:
            assert np.linalg.norm(one - other) > 15


def test_equal_scenes_give_equal_bytes_and_seeds_differ() -> None:
    scene = _scene(Thing("tree", "green"), Thing("boat", "red", "striped"))
    jpeg, png = encode(scene, 0, ("JPEG", "PNG"))
    assert encode(scene, 0) == [jpeg]
    assert encode(scene, 1) != [jpeg]
    assert Image.open(io.BytesIO(jpeg)).size == Image.open(io.BytesIO(png)).size == (256, 192)
    assert len(jpeg) < 30_000


def test_neighbours_share_the_rest_of_the_picture() -> None:
    one = np.asarray(draw(_scene(Thing("tree", "green"), Thing("boat", "red")), 0)).astype(int)
    two = np.asarray(draw(_scene(Thing("tree", "green"), Thing("boat", "blue")), 0)).astype(int)
    x, y, width, height = boxes(_scene(Thing("tree", "green"), Thing("boat", "red")), 0)[1]
    changed = np.abs(one - two).max(axis=-1) > 0
    assert changed.any()
    changed[y - 8 : y + height + 8, x - 8 : x + width + 8] = False
    assert not changed.any()


def test_boxes_lie_around_all_members() -> None:
    scene = _scene(Thing("tree", "green", count=4), Thing("boat", "red"))
    x, y, width, height = boxes(scene, 0)[0]
    for spot in place(scene, 0)[0]:
        assert x - 1 <= spot.x - spot.side / 2
        assert spot.x + spot.side / 2 <= x + width + 1
        assert y - 1 <= spot.y - spot.side / 2
        assert spot.y + spot.side / 2 <= y + height + 1
