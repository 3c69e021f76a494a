"""A small model and data that obey the loop's contracts, and a program that trains them.

`python -m tests.unit.training.toy OUT [options]` is what the kill-and-resume and two-process tests start.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from soho.training.processes import make_accelerator
from soho.training.recipe import TrainingSection
from soho.training.trainer import Trainer

ITEMS = 24
FEATURES = 6


@dataclass
class ToyOutput:
    loss: Tensor
    loss_parts: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, Tensor]]


class ToyModel(nn.Module):
    """A backbone, a regression part with a varying number of terms, a classification part, and an EMA buffer."""

    def __init__(self, dropout: float = 0.2, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn = nn.Sequential(nn.Linear(FEATURES, 8), *([nn.BatchNorm1d(8)] if batch_norm else []))
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(dropout)
        self.value_head = nn.Linear(8, 1)
        self.class_head = nn.Linear(8, 3)
        self.unused_head = nn.Linear(8, 2)
        self.frozen = False
        self.saved_to: Path | None = None
        for name, shape in {"ema": (8,), "pending_sum": (8,), "pending_count": ()}.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, loss_denominators: Mapping[str, Tensor] | None = None, **batch: Tensor) -> ToyOutput:
        counts = loss_denominators or {k: v.float() for k, v in self.loss_counts(batch).items()}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.cnn(batch["pixel_values"])
        if self.training:
            self.pending_sum += features.detach().float().sum(0)
            self.pending_count += len(features)
        hidden = self.dropout(self.norm(features) + 0.1 * self.ema)
        targets, known = batch["values"], batch["values"] != -100
        errors = ((self.value_head(hidden).squeeze(-1) - targets) ** 2)[known]
        value_loss = errors.sum() / counts["value"].clamp(min=1)
        logits = self.class_head(hidden).float()
        class_loss = nn.functional.cross_entropy(logits, batch["classes"], ignore_index=-100, reduction="sum")
        class_loss = class_loss / counts["class"].clamp(min=1)
        valid = batch["classes"] != -100
        hits = (logits.argmax(-1) == batch["classes"])[valid].float().sum()
        return ToyOutput(
            loss=value_loss + class_loss,
            loss_parts={"value": value_loss.detach(), "class": class_loss.detach()},
            metrics={"accuracy": (hits, valid.float().sum())},
        )

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: (batch[key] != -100).sum() for name, key in (("value", "values"), ("class", "classes"))}

    def visual_backbone(self) -> nn.Module:
        return self.cnn

    def freeze_visual_backbone(self, frozen: bool) -> None:
        self.frozen = frozen

    def after_optimizer_step(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.pending_sum)
            dist.all_reduce(self.pending_count)
        self.ema.lerp_(self.pending_sum / self.pending_count, 0.1)
        self.pending_sum.zero_()
        self.pending_count.zero_()

    def health(self) -> dict[str, float]:
        return {"ema": float(self.ema.norm())}

    def save_pretrained(self, path: Path) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), Path(path) / "toy.pt")


class ToyData:
    """Batches drawn by (seed, epoch) alone, shared out as contiguous slices of the global batch."""

    def __init__(
        self,
        batch_size: int = 3,
        rank: int = 0,
        world_size: int = 1,
        signal_at: int | None = None,
        number: int = signal.SIGKILL,
    ) -> None:
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.signal_at, self.number = signal_at, number
        generator = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(ITEMS, FEATURES, generator=generator)
        self.classes = (self.inputs[:, 0] > 0).long() + (self.inputs[:, 1] > 0).long()
        self.values = self.inputs[:, 2] * 2
        self.values[::5] = -100  # the parts have different numbers of terms, uneven over batches
        self.served = 0

    @property
    def batches_per_epoch(self) -> int:
        return ITEMS // (self.batch_size * self.world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(epoch))
        span = self.batch_size * self.world_size
        for number in range(start, self.batches_per_epoch):
            if self.served == self.signal_at:
                os.kill(os.getpid(), self.number)
            self.served += 1
            first = number * span + self.rank * self.batch_size
            rows = order[first : first + self.batch_size]
            yield {"pixel_values": self.inputs[rows], "values": self.values[rows], "classes": self.classes[rows]}


def settings(**changes: Any) -> TrainingSection:
    """Four epochs of eight micro-batches with everything switched on that a resumed run could get wrong."""
    values: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 3,
        "accumulation": 3,  # 8 micro-batches: the last step of an epoch has two
        "clip_norm": 1.0,
        "freeze_backbone_epochs": 1,
        "schedule": {"milestones": [2.0, 3.0], "warmup_steps": 2},
        "log_every": 2,
        "checkpoint_every": 5,
        "channels_last": False,
    }
    return TrainingSection.model_validate({**values, **changes})


def evaluation(model: nn.Module, step: int) -> dict[str, float]:
    """Draw random numbers, as a careless evaluation might."""
    return {"noise": float(torch.rand(()) * 0 + step)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch-size", type=int, default=3)
    parser.add_argument("--accumulation", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch-norm", action="store_true")
    parser.add_argument("--kill-with", type=int, default=signal.SIGKILL)
    parser.add_argument("--signal-at", type=int, help="fetched batch at which the last process signals itself")
    options = parser.parse_args()

    torch.set_num_threads(1)
    accelerator = make_accelerator()
    rank, world_size = accelerator.process_index, accelerator.num_processes
    signal_at = options.signal_at if rank == world_size - 1 else None
    data = ToyData(options.batch_size, rank, world_size, signal_at, options.kill_with)
    model = ToyModel(options.dropout, options.batch_norm)
    if rank:
        # Processes may begin with different weights; the main one's count.
        for tensor in model.state_dict().values():
            tensor.add_(rank)
    chosen = settings(batch_size=options.batch_size, accumulation=options.accumulation, evaluate_every=1)
    Trainer(model, data, chosen, options.output, seed=5, evaluate=evaluation, accelerator=accelerator).fit()
    torch.save(model.state_dict(), options.output / f"process{rank}.pt")


if __name__ == "__main__":
    main()
