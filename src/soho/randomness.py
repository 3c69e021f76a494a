"""Draws that belong to a key, not to a running generator.

Everything random about a sample is drawn from (seed, epoch, sample id, purpose). Resuming a run, another number of
data workers or of processes, and another storage order then give the same draws by construction.
"""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return a generator that depends on nothing but `seed` and `key`.

    Args:
        seed: the seed of the run.
        *key: what the draws are for, for instance `(epoch, image_id, "mlm")`.

    Returns:
        A Philox generator; equal arguments give equal draws on every machine and in every process.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in key)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def keyed_uniform(seed: int, *key: int | str) -> float:
    """Return one uniform draw from [0, 1) that belongs to the key; see `keyed_generator`."""
    return float(keyed_generator(seed, *key).random())
