"""What the stages of the demonstration leave: figures, durations, steps, as one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from soho.training.checkpoint import write_text_atomically

RESULTS = "results.json"


@dataclass(frozen=True)
class StageResult:
    """One run.

    Attributes:
        metrics: figure -> value.
        seconds: spent on training and measuring.
        steps: optimizer steps.
        train_seconds: spent in training steps, over all parts of a resumed run.
    """

    metrics: dict[str, float]
    seconds: float
    steps: int
    train_seconds: float


@dataclass
class DemoResult:
    """Everything the page and the study need.

    Attributes:
        out: folder of the demonstration.
        metrics: run -> figure -> value on the test split (pretrain: on the validation split).
        seconds: stage -> duration; stages that ran side by side overlap.
        steps: run -> optimizer steps.
        train_seconds: run -> time spent in its training steps, over all parts of a resumed run.
        wall_seconds: from the start to the last finished stage, over all parts of a resumed demonstration.
    """

    out: Path
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    train_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0

    def add(self, run: str, found: StageResult) -> None:
        """Take over what a run left."""
        self.metrics[run], self.seconds[run] = found.metrics, found.seconds
        self.steps[run], self.train_seconds[run] = found.steps, found.train_seconds

    def save(self, name: str = RESULTS) -> None:
        """Write everything but the folder's name as JSON into the folder."""
        content = {key: value for key, value in asdict(self).items() if key != "out"}
        write_text_atomically(self.out / name, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, out: Path, name: str = RESULTS) -> DemoResult:
        """Read what `save` wrote; an empty result where there is nothing."""
        path = out / name
        return cls(out, **json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls(out)
