"""What visual reasoning and visual entailment share: a text, one or two pictures, and one of a few fixed classes."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from soho.data.dataset import EpochLoader, SampleKey
from soho.data.schema import texts_of
from soho.errors import SohoError
from soho.models.losses import IGNORE
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.tasks.base import Item, Processes, Task
from soho.tasks.batches import inference, pad_texts, sample_picture, stack_pictures
from soho.tasks.groups import TEXTS_AT_ONCE, PictureGroup, group_by_picture


class ClassificationTask(Task):
    """A task whose examples carry one class each; `data.image_blind` gives the text-only baseline."""

    has_baselines: ClassVar[bool] = True

    @staticmethod
    @abstractmethod
    def class_of(example: Any) -> int:
        """Return the index of an example's true class, in the order of the model's logits."""

    def texts(self) -> Sequence[str]:
        """Return the text of every training example."""
        return [text for example in self.examples("train") for text in texts_of(example)]

    def train_loader(self, processes: Processes) -> EpochLoader:
        """Return batches of labelled examples; every example comes once an epoch."""
        data, batch_size = self.recipe.data, self.recipe.training.batch_size
        return self._loader("train", data.questions_per_image, processes, batch_size, shuffle=True)

    def predictions(self, model: SohoPreTrainedModel, split: str, processes: Processes) -> dict[int, list[float]]:
        """Classify this process's share of a split.

        Returns:
            Row of the split -> the probability of every class. Rows whose pictures cannot be read are absent, counted
            and named in `notes`.
        """
        batch_size = self.recipe.evaluation.batch_size
        loader = self._loader(split, TEXTS_AT_ONCE, processes, batch_size, shuffle=False)
        found: dict[int, list[float]] = {}
        for batch, output in inference(model, loader, self.recipe.evaluation.precision):
            for row, shares in zip(batch["rows"].tolist(), output.logits.softmax(-1).tolist()):
                if row >= 0:
                    found[row] = shares
        self.note_broken(loader, split, "their examples are not measured")
        return found

    def majority_class(self) -> int:
        """Return the most frequent class of the training split, the first class among equals.

        Raises:
            SohoError: the recipe names no training data.
        """
        if not self.recipe.data.train:
            raise SohoError("evaluation.baselines needs data.train: its most frequent answer is a baseline")
        counts = Counter(self.class_of(example) for example in self.examples("train"))
        return min(counts, key=lambda number: (-counts[number], number))

    def majority_accuracy(self, split: str) -> float:
        """Return the accuracy in [0, 1] of always giving the most frequent training class, over a whole split."""
        majority, examples = self.majority_class(), self.examples(split)
        return sum(self.class_of(example) == majority for example in examples) / len(examples)

    def _loader(self, split: str, most: int, processes: Processes, batch_size: int, *, shuffle: bool) -> EpochLoader:
        items = [Item(group) for group in group_by_picture(enumerate(self.examples(split)), most)]
        return self.loader(
            items, ClassSampler(self), collate_classes, processes, batch_size=batch_size, shuffle=shuffle
        )


class ClassSampler:
    """Turns a group of examples into the pixels of their pictures, token ids and the indices of their classes."""

    def __init__(self, task: ClassificationTask) -> None:
        self.processor = task.processor
        self.pixels = task.pixels
        self.class_of = task.class_of
        self.blind = task.recipe.data.image_blind

    def __call__(self, item: Item, key: SampleKey) -> dict[str, Any]:
        """Return one sample; see `collate_classes`."""
        group: PictureGroup[Any] = item.example
        return {
            "pictures": [
                sample_picture(self.pixels, photo.image, size, filler=key.filler, blind=self.blind)
                for photo, size in zip(group.photos, item.sizes)
            ],
            "ids": self.processor.encode_batch([text for example in group.examples for text in texts_of(example)]),
            "rows": [IGNORE if key.filler else row for row in group.rows],
            "labels": [IGNORE if key.filler else self.class_of(example) for example in group.examples],
        }


def collate_classes(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Join groups into a batch of B pictures (or pairs of them) and P texts.

    Returns:
        `labels` (P,), `pair_image_index` (P,), and `pixel_values_2`, `pixel_mask_2` where there are two pictures.
    """
    batch: dict[str, Tensor] = {}
    for number in range(len(samples[0]["pictures"])):
        stacked = stack_pictures([sample["pictures"][number] for sample in samples])
        suffix = "" if number == 0 else f"_{number + 1}"
        batch |= {f"{name}{suffix}": value for name, value in stacked.items()}
    batch["input_ids"], batch["attention_mask"] = pad_texts([ids for sample in samples for ids in sample["ids"]], 0)
    counts = torch.tensor([len(sample["ids"]) for sample in samples])
    batch["pair_image_index"] = torch.arange(len(samples)).repeat_interleave(counts)
    for name in ("rows", "labels"):
        batch[name] = torch.tensor([value for sample in samples for value in sample[name]])
    return batch
