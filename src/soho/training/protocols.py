"""What the loop asks of the data and of a model, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class TrainData(Protocol):
    """One process's share of the training data, in batches; equally many on every process and in every epoch."""

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of this process per epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch (from 0), leaving out the first `start`; draws no global random number."""


class TrainableModel(Protocol):
    """What the loop asks of a model beyond being an `nn.Module`; every `SohoForX` offers it.

    `forward(**batch, loss_denominators=...)` returns an object with `.loss`, `.loss_parts` and `.metrics`, with the
    same names for every batch. The parts sum over micro-batches and processes to the mean over the whole batch of
    an optimizer step; a metric is a pair (sum, count).

    With `training.fsdp` the layers whose class `_no_split_modules` names, as transformers has it, are gathered one by
    one. Every process must call them equally often in a forward pass.
    """

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the number of terms of each loss part; the batch still lies on the CPU."""

    def visual_backbone(self) -> nn.Module:
        """Return the CNN."""

    def freeze_visual_backbone(self, frozen: bool) -> None:
        """Fix the CNN and its batch-norm statistics, or release them."""

    def after_optimizer_step(self) -> None:
        """Apply what was gathered during the step (the dictionary update); may communicate."""

    def health(self) -> dict[str, float]:
        """Return figures to log."""

    def save_pretrained(self, path: Path) -> None:
        """Write a model folder."""


@dataclass(frozen=True)
class TrainingSummary:
    """How a run ended.

    Attributes:
        steps: optimizer steps done.
        epochs: passes over the data done.
        images: images seen by all processes, in all parts of a resumed run.
        seconds: time spent in training steps, in all parts of a resumed run.
        model_path: the model folder.
        training: the last logged training figures.
        evaluation: the last evaluation; empty where none was asked for.
        already_finished: nothing was done because the folder held a finished run.
    """

    steps: int
    epochs: float
    images: int
    seconds: float
    model_path: Path
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    already_finished: bool = False
