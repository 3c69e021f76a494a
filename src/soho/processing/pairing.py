"""Which texts are read against a picture: its own captions in groups, and captions of other photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from soho.data.schema import CaptionedImage
from soho.errors import SohoError


def epoch_groups(captions: int, positives: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Share out the captions of a picture over its turns in one epoch (section 4.1: two positives a turn).

    Every caption comes once. Where the last group is short it is filled with captions of the other groups, so a
    picture with five captions and two positives has three turns, and one caption comes twice. Only a picture with
    fewer captions than `positives` has one twice in the same group.

    Args:
        captions: number of captions of the picture.
        positives: texts per group.
        rng: draws the order and the filling.

    Returns:
        ceil(captions / positives) groups of `positives` caption numbers each.
    """
    order = rng.permutation(captions).tolist()
    groups = [tuple(order[low : low + positives]) for low in range(0, captions, positives)]
    if groups and len(groups[-1]) < positives:
        last = groups[-1]
        others = order[: captions - len(last)]
        filling = rng.permutation(len(others))[: positives - len(last)].tolist()
        filled = last + tuple(others[number] for number in filling)
        groups[-1] = tuple(filled[number % len(filled)] for number in range(positives))
    return groups


class CaptionIndex:
    """Knows how many captions every picture has and which pictures show the same photograph; holds no text.

    Three numbers a picture, so that it costs next to nothing in every worker process.

    Args:
        images: the pictures that texts may be taken from. They are read once and not kept.
        limit: count at most so many captions of a picture. A picture is drawn as often as it has captions; with
            the number of captions that are used in an epoch, positives and negatives have the same mixture of data
            sets, and a text alone does not tell that it is a negative.

    Attributes:
        photos: (n,) uint64 hash of each picture's photo key.
        captions: (n,) number of captions.
        ends: (n,) running sum of the captions that count.
    """

    def __init__(self, images: Iterable[CaptionedImage], limit: int | None = None) -> None:
        rows = [(_photo_hash(image.photo_key), len(image.captions)) for image in images]
        self.photos = np.array([photo for photo, _ in rows], dtype=np.uint64)
        self.captions = np.array([count for _, count in rows], dtype=np.int64)
        self.ends = np.cumsum(self.captions if limit is None else self.captions.clip(max=limit))
        self._by_photo = np.argsort(self.photos, kind="stable")
        self._sorted_photos = self.photos[self._by_photo]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.photos)

    def images_of(self, photo: np.uint64) -> np.ndarray:
        """Return the numbers of all pictures of a photograph, ascending."""
        low = np.searchsorted(self._sorted_photos, photo, side="left")
        high = np.searchsorted(self._sorted_photos, photo, side="right")
        return self._by_photo[low:high]

    def draw(self, excluded: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
        """Draw one (image, caption) from all pictures but `excluded` (image numbers, ascending)."""
        ends = self.ends[excluded]
        sizes = ends - np.where(excluded > 0, self.ends[excluded - 1], 0)
        rest = int(self.ends[-1]) - int(sizes.sum()) if len(self) else 0
        if rest <= 0:
            return None
        place = int(rng.integers(rest))
        # The place counts captions that are allowed; step over the ones that are not.
        for end, size in zip(ends.tolist(), sizes.tolist()):
            if place >= end - size:
                place += size
        image = int(np.searchsorted(self.ends, place, side="right"))
        return image, int(rng.integers(self.captions[image]))


def draw_negatives(index: CaptionIndex, photo_key: str, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw captions of other photographs, to be told apart from the picture's own (section 4.1).

    A photograph that appears under several ids, or in several data sets, counts as one. The captions come from
    different photographs as long as there are enough of them.

    Args:
        index: all pictures.
        photo_key: the photograph they must not belong to.
        count: how many.
        rng: where the draws come from.

    Returns:
        `count` pairs of (number of the picture in the index, number of its caption).

    Raises:
        SohoError: there is no caption of any other photograph.
    """
    own = index.images_of(_photo_hash(photo_key))
    excluded = own
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        pair = index.draw(excluded, rng)
        if pair is None and len(excluded) == len(own):
            raise SohoError(
                f"no negative text for the photograph {photo_key}: the data set has no caption of any other photograph"
            )
        if pair is None:
            excluded = own
            continue
        drawn.append(pair)
        excluded = np.union1d(excluded, index.images_of(index.photos[pair[0]]))
    return drawn


def _photo_hash(photo_key: str) -> np.uint64:
    # A chance collision (1 in 10^9 for 200,000 pictures) would only forbid one more photograph.
    return np.uint64(int.from_bytes(hashlib.blake2b(photo_key.encode(), digest_size=8).digest(), "little"))
