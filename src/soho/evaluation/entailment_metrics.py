"""Accuracy of visual entailment, overall and per class."""

from __future__ import annotations

from dataclasses import dataclass, field

from soho.evaluation.metrics import Mean


@dataclass
class EntailmentScore:
    """Accuracy over examples and over the examples of each gold label; mergeable.

    Attributes:
        overall: over all examples.
        by_label: over the examples of each gold label (the recall of the class).
    """

    overall: Mean = field(default_factory=Mean)
    by_label: dict[str, Mean] = field(default_factory=dict)

    def update(self, prediction: str, label: str) -> None:
        """Add one example."""
        right = prediction == label
        self.overall.update(right)
        self.by_label.setdefault(label, Mean()).update(right)

    def merge(self, other: EntailmentScore) -> EntailmentScore:
        """Add what `other` saw; returns self."""
        self.overall.merge(other.overall)
        for label, mean in other.by_label.items():
            self.by_label.setdefault(label, Mean()).merge(mean)
        return self

    def result(self) -> dict[str, float]:
        """Return `accuracy`, `<label>/accuracy` in alphabetical order, and `examples`, how many there were."""
        parts = {f"{label}/accuracy": self.by_label[label].result() for label in sorted(self.by_label)}
        return {"accuracy": self.overall.result(), **parts, "examples": self.overall.count}
