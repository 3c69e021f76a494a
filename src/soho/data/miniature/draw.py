"""Draws a scene graph: background, then the stickers from back to front."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image

from soho.data.miniature.backgrounds import VIEWS, view
from soho.data.miniature.layout import Placement, place
from soho.data.miniature.scene import Scene, Thing
from soho.data.miniature.shapes import SIDES, sticker
from soho.randomness import keyed_generator

_ROOM = 1.15  # side of the stamped square per side of the thing: the rim and the shadow lie around it


def _stamp(picture: Image.Image, thing: Thing, spot: Placement) -> None:
    """Shrink, mirror and turn a sticker in one step and lay it on the picture."""
    side = round(spot.side * _ROOM)
    level = max(number for number, kept in enumerate(SIDES) if kept >= side * 0.95 or number == 0)
    image = sticker(thing.kind, thing.color, thing.texture)[level]
    scale, angle = SIDES[level] / side, math.radians(spot.turn)
    cos, sin, flip = scale * math.cos(angle), scale * math.sin(angle), -1.0 if spot.mirrored else 1.0
    middle, half = SIDES[level] / 2, side / 2
    a, b, d, e = flip * cos, -flip * sin, sin, cos
    coefficients = (a, b, middle - a * half - b * half, d, e, middle - d * half - e * half)
    turned = image.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    picture.paste(turned, (round(spot.x - half), round(spot.y - half)), turned)


def draw(scene: Scene, seed: int) -> Image.Image:
    """Draw a scene.

    Args:
        scene: the scene graph.
        seed: seed of the world; details belong to it and to `scene.look`.

    Returns:
        An RGB picture of `scene.shape`.
    """
    number, mirrored = keyed_generator(seed, "view", scene.look).integers((VIEWS, 2))
    ground = view(scene.background, *scene.shape, int(number), seed)
    picture = ground.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else ground.copy()
    spots = place(scene, seed)
    back_to_front = reversed(scene.order) if scene.arrangement == "overlap" else scene.order
    for index in back_to_front:
        for spot in spots[index]:
            _stamp(picture, scene.things[index], spot)
    return picture


def encode(scene: Scene, seed: int, formats: Sequence[str] = ("JPEG",)) -> list[bytes]:
    """Draw a scene and return the bytes of an image file per wanted format: JPEG (quality 90) or PNG."""
    picture = draw(scene, seed)
    files = []
    for name in formats:
        buffer = io.BytesIO()
        picture.save(buffer, name, **({"quality": 90} if name == "JPEG" else {"compress_level": 1}))
        files.append(buffer.getvalue())
    return files


def boxes(scene: Scene, seed: int) -> list[tuple[int, int, int, int]]:
    """Return for every thing the box around all its members: x, y, width, height in whole pixels."""
    found = []
    for members in place(scene, seed):
        x0 = min(spot.x - spot.side / 2 for spot in members)
        y0 = min(spot.y - spot.side / 2 for spot in members)
        x1 = max(spot.x + spot.side / 2 for spot in members)
        y1 = max(spot.y + spot.side / 2 for spot in members)
        left, top = max(0, round(x0)), max(0, round(y0))
        right, bottom = min(scene.shape[0], round(x1)), min(scene.shape[1], round(y1))
        found.append((left, top, right - left, bottom - top))
    return found
