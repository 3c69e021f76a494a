"""What the command line decides for every benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from soho.errors import SohoError
from soho.models.fast import fast_dtype


@dataclass
class Options:
    """Settings of a run.

    Attributes:
        quick: sizes so small that the whole run takes seconds; its figures mean nothing.
        rounds: measured calls of each side.
        seconds: for each case, after which no new round begins.
        device: where everything computes.
        sides: names of the sides to run; empty = all.
        cases: parts of the names of the cases to run, for instance "R18"; empty = all.
        compiled: compile what can be compiled, on all sides that are to be compared with our fast setting.
        long: also what takes an hour.
        after_case: called with what a benchmark has found so far, so that a stopped run leaves that.
    """

    quick: bool = False
    rounds: int = 10
    seconds: float = 120.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sides: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    compiled: bool = True
    long: bool = False
    after_case: Callable[[Any], object] = lambda _: None

    @property
    def dtype(self) -> torch.dtype:
        """The type in which fast sides compute."""
        return fast_dtype(self.device)

    def wants_case(self, name: str) -> bool:
        """Say whether a case is to be run."""
        return not self.cases or any(part.lower() in name.lower() for part in self.cases)

    def chosen(self, names: list[str]) -> list[str]:
        """Return those of a benchmark's side names that are to be run.

        Raises:
            SohoError: `sides` names none of them.
        """
        if not self.sides:
            return names
        kept = [name for name in names if name in self.sides]
        if not kept:
            raise SohoError(
                f"--sides {'; '.join(self.sides)} names no side of this benchmark; it has {'; '.join(names)}"
            )
        return kept
