"""Visual entailment on SNLI-VE: does the picture entail the sentence? (section 4.2.4)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from soho.data.schema import VisualHypothesis
from soho.data.sources import Load, load_hypotheses
from soho.evaluation.entailment_metrics import EntailmentScore
from soho.evaluation.metrics import merge_processes
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES, SohoForVisualEntailment
from soho.tasks.base import Processes
from soho.tasks.classification import ClassificationTask


class SnliVeTask(ClassificationTask):
    """Entailment, neutral or contradiction; rows without an agreed label are left out by the reader."""

    name: ClassVar[str] = "snli_ve"
    model_class: ClassVar[type[SohoPreTrainedModel]] = SohoForVisualEntailment
    read: ClassVar[Load] = staticmethod(load_hypotheses)

    @staticmethod
    def class_of(example: VisualHypothesis) -> int:
        """Return the index of the gold label in `ENTAILMENT_CLASSES`."""
        return ENTAILMENT_CLASSES.index(example.label)

    def evaluate(
        self, model: SohoPreTrainedModel, split: str, processes: Processes, out: Path | None = None
    ) -> dict[str, float]:
        """Return the accuracy, overall and per gold label.

        With `evaluation.baselines` also `majority`, the accuracy of always giving the most frequent training label.
        """
        examples = self.examples(split)
        majority = ENTAILMENT_CLASSES[self.majority_class()] if self.recipe.evaluation.baselines else None
        score, baseline = EntailmentScore(), EntailmentScore()
        for row, shares in self.predictions(model, split, processes).items():
            label = examples[row].label
            score.update(ENTAILMENT_CLASSES[shares.index(max(shares))], label)
            if majority is not None:
                baseline.update(majority, label)
        figures = merge_processes(score).result()
        if majority is not None:
            figures["majority"] = merge_processes(baseline).result()["accuracy"]
        return figures
