"""Accuracy and consistency of NLVR2, as the data set's own evaluation counts them (Suhr et al., 2019).

Shares are fractions in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from soho.errors import SohoError

# split, set of eight photographs, pair within the set, sentence within the set
_PARTS = 4


@dataclass
class ReasoningScore:
    """Accuracy over examples and consistency over sentences; mergeable.

    A sentence of NLVR2 is said of up to four pairs of photographs of one set. Consistency is the share of sentences
    that are judged rightly on every pair. Which examples belong to one sentence is told by the identifier,
    `split-set-pair-sentence`: all its parts but the pair. The text cannot tell it, because writers of two sets have
    used the same words.

    Attributes:
        right: identifier -> whether the prediction was right.
        group: identifier -> the sentence it belongs to.
    """

    right: dict[str, bool] = field(default_factory=dict)
    group: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def update(self, identifier: str, sentence: str, label: bool | str, prediction: bool | str) -> bool:
        """Add one example and say whether it is right.

        Args:
            identifier: `split-set-pair-sentence`, for instance `dev-850-2-0`.
            sentence: the text; it makes the group where the identifier has another form (data of one's own).
            label: the truth, a truth value or "True" / "False" in any case.
            prediction: likewise.

        Raises:
            SohoError: the identifier came before, or a value is neither true nor false.
        """
        if identifier in self.right:
            raise SohoError(f"the example {identifier} was scored before; each identifier counts once")
        right = _truth(label, identifier, "label") == _truth(prediction, identifier, "prediction")
        parts = identifier.split("-")
        group = (parts[0], parts[1], parts[3]) if len(parts) == _PARTS else (sentence,)
        self.right[identifier], self.group[identifier] = right, group
        return right

    def merge(self, other: ReasoningScore) -> ReasoningScore:
        """Add what `other` saw; returns self.

        Raises:
            SohoError: both saw the same example.
        """
        twice = next((identifier for identifier in other.right if identifier in self.right), None)
        if twice is not None:
            raise SohoError(f"the example {twice} was scored before; each identifier counts once")
        self.right.update(other.right)
        self.group.update(other.group)
        return self

    def result(self) -> dict[str, float]:
        """Return `accuracy` and `consistency`, NaN where nothing was seen."""
        if not self.right:
            return {"accuracy": math.nan, "consistency": math.nan}
        whole: dict[tuple[str, ...], bool] = {}
        for identifier, right in self.right.items():
            group = self.group[identifier]
            whole[group] = whole.get(group, True) and right
        return {
            "accuracy": sum(self.right.values()) / len(self.right),
            "consistency": sum(whole.values()) / len(whole),
        }


def _truth(value: bool | str, identifier: str, what: str) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise SohoError(f"the {what} of example {identifier} is {value!r}; expected True or False")
    return text == "true"
