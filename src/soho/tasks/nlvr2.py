"""Visual reasoning on NLVR2: is a sentence true of two pictures? (section 4.2.3)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from soho.data.schema import VisualStatement
from soho.data.sources import Load, load_statements
from soho.evaluation.metrics import merge_processes
from soho.evaluation.reasoning_metrics import ReasoningScore
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.tasks.base import Processes
from soho.tasks.classification import ClassificationTask


class Nlvr2Task(ClassificationTask):
    """True or false; a batch holds one shape of left and one shape of right pictures."""

    name: ClassVar[str] = "nlvr2"
    model_class: ClassVar[type[SohoPreTrainedModel]] = SohoForVisualReasoning
    read: ClassVar[Load] = staticmethod(load_statements)

    @staticmethod
    def class_of(example: VisualStatement) -> int:
        """Return 1 where the sentence is true, 0 where it is false."""
        return int(example.label)

    def evaluate(
        self, model: SohoPreTrainedModel, split: str, processes: Processes, out: Path | None = None
    ) -> dict[str, float]:
        """Return accuracy and consistency, by list and split too; see `ReasoningScore.result`.

        With `evaluation.baselines` also `majority`, the accuracy of always giving the most frequent training label.
        """
        examples = self.examples(split)
        majority = bool(self.majority_class()) if self.recipe.evaluation.baselines else None
        score, baseline = ReasoningScore(), ReasoningScore()
        for row, shares in self.predictions(model, split, processes).items():
            example = examples[row]
            # A tie is "false", as the lower index in every arg max.
            score.update(example.statement_id, shares[1] > shares[0], example.label, example.subsets)
            if majority is not None:
                baseline.update(example.statement_id, majority, example.label)
        figures = merge_processes(score).result()
        if majority is not None:
            figures["majority"] = merge_processes(baseline).result()["accuracy"]
        return figures
