"""Fixtures of the comparison with the official classes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity.official import manifest


@pytest.fixture(scope="module")
def official_threads() -> Iterator[None]:
    """Compute with as many threads as the official run: gradients of a CNN depend on the order of summation.

    One thread instead of two moves the gradient of an early convolution by 4e-5 of its largest magnitude.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(int(manifest().get("threads", 1)))
    yield
    torch.set_num_threads(before)
