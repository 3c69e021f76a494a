"""Accuracy and consistency of NLVR2, as its own evaluation script defines them (Suhr et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from soho.errors import SohoError
from soho.evaluation.metrics import Mean

# What the papers call the parts of the test set: public, and once hidden ("unreleased").
SPLITS = {"test1": "test-P", "test2": "test-U"}


def sentence_group(identifier: str) -> str:
    """Return what all examples with the same sentence share: the identifier without the number of its image pair.

    Raises:
        SohoError: the identifier does not look like `dev-850-2-0` (split, set, image pair, sentence).
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise SohoError(f"the NLVR2 identifier {identifier!r} must look like 'dev-850-2-0'")
    split, image_set, _, sentence = parts
    return f"{split}-{image_set}-{sentence}"


@dataclass
class ReasoningScore:
    """Accuracy over examples and consistency over sentences; mergeable, also where a sentence is spread over parts.

    Attributes:
        overall: accuracy over all examples.
        by_part: accuracy over the examples of a split (dev, test-P, test-U) or of a list (balanced, unbalanced).
        groups: sentence group -> whether every example of it so far was right.
    """

    overall: Mean = field(default_factory=Mean)
    by_part: dict[str, Mean] = field(default_factory=dict)
    groups: dict[str, bool] = field(default_factory=dict)

    def update(self, identifier: str, prediction: bool, label: bool, subsets: Iterable[str] = ()) -> None:
        """Add one example.

        Args:
            identifier: upstream's `split-set-pair-sentence`.
            prediction: what the model says.
            label: the truth.
            subsets: the lists that name the example.

        Raises:
            SohoError: the identifier has another form.
        """
        group = sentence_group(identifier)
        right = prediction == label
        self.overall.update(right)
        split = group.split("-", 1)[0]
        for part in (SPLITS.get(split, split), *subsets):
            self.by_part.setdefault(part, Mean()).update(right)
        self.groups[group] = self.groups.get(group, True) and right

    def merge(self, other: ReasoningScore) -> ReasoningScore:
        """Add what `other` saw; returns self."""
        self.overall.merge(other.overall)
        for part, mean in other.by_part.items():
            self.by_part.setdefault(part, Mean()).merge(mean)
        for group, right in other.groups.items():
            self.groups[group] = self.groups.get(group, True) and right
        return self

    def result(self) -> dict[str, float]:
        """Return the figures.

        Returns:
            `accuracy`; `consistency`, the share of sentences of which every example is right; `<part>/accuracy` of
            each split and list (`<split>/consistency` too) where there is more than one; `examples` and `sentences`,
            how many there were.
        """
        splits: dict[str, Mean] = {}
        for group, right in self.groups.items():
            split = group.split("-", 1)[0]
            splits.setdefault(SPLITS.get(split, split), Mean()).update(right)
        figures = {"accuracy": self.overall.result(), "consistency": _share(self.groups.values())}
        for part in sorted(self.by_part):
            if part not in splits:
                figures[f"{part}/accuracy"] = self.by_part[part].result()
            elif len(splits) > 1:
                figures |= {
                    f"{part}/accuracy": self.by_part[part].result(),
                    f"{part}/consistency": splits[part].result(),
                }
        return {**figures, "examples": self.overall.count, "sentences": float(len(self.groups))}


def _share(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan
