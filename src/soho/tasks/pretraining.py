"""Pre-training: two matching and two foreign texts per picture, MLM + MVM + ITM (sections 3.3 and 4.1)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from soho.data.dataset import EpochLoader, SampleKey
from soho.data.schema import CaptionedImage
from soho.evaluation.metrics import CodeHistogram, Mean, merge_processes
from soho.models.losses import IGNORE
from soho.models.modeling_pretraining import SohoForPreTraining
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.processing.pairing import CaptionIndex, draw_negatives, epoch_groups
from soho.processing.text_masking import mask_tokens
from soho.randomness import keyed_generator
from soho.tasks.base import Item, Processes, Task
from soho.tasks.batches import blank_picture, inference, pad_texts, stack_pictures

# The epoch whose draws validation uses, so that two validations of one model agree.
VALIDATION_EPOCH = -1


class PretrainingTask(Task):
    """Pre-training on captioned pictures of one or several data sets."""

    name: ClassVar[str] = "pretraining"
    model_class: ClassVar[type[SohoPreTrainedModel]] = SohoForPreTraining
    visual_input: ClassVar[str] = "dictionary"

    def texts(self) -> Sequence[str]:
        """Return all training captions."""
        return [caption for image in self.examples("train") for caption in image.captions]

    def train_loader(self, processes: Processes) -> EpochLoader:
        """Return batches in which every caption is a positive once an epoch."""
        return self._loader("train", processes, self.recipe.training.batch_size, shuffle=True)

    def _loader(self, split: str, processes: Processes, batch_size: int, shuffle: bool) -> EpochLoader:
        examples = self.examples(split)
        limit = self.recipe.data.captions_per_image_per_epoch
        positives = self.recipe.data.positives_per_image
        items = []
        for example in examples:
            captions = len(example.captions) if limit is None else min(limit, len(example.captions))
            items += [Item(example, group) for group in range(-(-captions // positives))]
        sampler = PairSampler(self, examples)
        return self.loader(items, sampler, collate_pairs, processes, batch_size=batch_size, shuffle=shuffle)

    def evaluate(
        self, model: SohoPreTrainedModel, split: str, processes: Processes, out: Path | None = None
    ) -> dict[str, float]:
        """Return losses and accuracies of the three tasks on a split, and the baseline MVM has to beat.

        `loss` adds the parts with the weights of the model's configuration, as in training.
        `mvm_majority` is the accuracy of always guessing the most frequent hidden index; `perplexity` that of the
        hidden indices.
        """
        batches = self._loader(split, processes, self.recipe.evaluation.batch_size, shuffle=False)
        means: dict[str, Mean] = {}
        codes = CodeHistogram(max(1, model.config.dictionary_size))
        for batch, output in inference(model, batches, self.recipe.evaluation.precision, epoch=VALIDATION_EPOCH):
            counts = model.loss_counts(batch)
            for name, value in output.loss_parts.items():
                means.setdefault(f"{name}_loss", Mean()).update(float(value * counts[name]), float(counts[name]))
            for name, (total, count) in output.metrics.items():
                means.setdefault(name, Mean()).update(float(total), float(count))
            if output.mvm_labels is not None:
                codes.update(output.mvm_labels.cpu().numpy())
        self.note_broken(batches, split, "count for nothing")
        figures = {name: merge_processes(mean).result() for name, mean in sorted(means.items())}
        codes = merge_processes(codes)
        parts = [name for name in ("mlm", "mvm", "itm", "itc") if f"{name}_loss" in figures]
        figures["loss"] = sum(getattr(model.config, f"{name}_weight") * figures[f"{name}_loss"] for name in parts)
        if model.config.use_dictionary:
            figures |= {"mvm_majority": codes.majority_share(), "perplexity": codes.perplexity()}
        return figures


class PairSampler:
    """Turns (picture, group of its captions, epoch) into pixels and positives + negatives, masked.

    A pure function of its key: whoever asks, in whatever order, gets the same draws.
    """

    def __init__(self, task: PretrainingTask, examples: Sequence[CaptionedImage]) -> None:
        data = task.recipe.data
        self.examples = examples
        self.index = CaptionIndex(examples, data.captions_per_image_per_epoch)
        self.processor = task.processor
        self.special_ids = sorted(self.processor.tokenizer.all_special_ids)
        self.is_special = np.zeros(len(self.processor.tokenizer), dtype=bool)
        self.is_special[self.special_ids] = True
        self.pixels = task.pixels
        self.seed = task.recipe.seed
        self.positives, self.negatives = data.positives_per_image, data.negatives_per_image
        self.probability = data.mask_probability
        self.caption_limit = data.captions_per_image_per_epoch

    def __call__(self, item: Item, key: SampleKey) -> dict[str, Any]:
        """Return one sample; see `collate_pairs` for its use."""
        example: CaptionedImage = item.example
        pairing = keyed_generator(self.seed, key.epoch, example.photo_key, example.image_id, "pairing")
        positives = epoch_groups(len(example.captions), self.positives, pairing)[item.part]
        draws = keyed_generator(self.seed, key.epoch, example.photo_key, example.image_id, item.part, "sample")
        texts = [example.captions[number] for number in positives]
        for image, caption in draw_negatives(self.index, example.photo_key, self.negatives, draws):
            texts.append(self.examples[image].captions[caption])
        match = [1] * len(positives) + [0] * self.negatives
        tokenizer = self.processor.tokenizer
        ids, labels = [], []
        for row in self.processor.encode_batch(texts):
            tokens = np.array(row)
            masked, label = mask_tokens(
                tokens,
                self.is_special[tokens],
                draws,
                mask_id=tokenizer.mask_token_id,
                vocab_size=len(tokenizer),
                special_ids=self.special_ids,
                probability=self.probability,
            )
            ids.append(masked)
            labels.append(label)
        if key.filler:
            picture = blank_picture(self.processor.image_processor, item.size)
            match, labels = [IGNORE] * len(match), [np.full_like(label, IGNORE) for label in labels]
        else:
            picture = self.pixels(example.image, item.size)
        return {
            # Two data sets may hold one photograph; as a number it can travel in the batch.
            "photo": zlib.crc32(example.photo_key.encode()),
            "picture": picture,
            "ids": ids,
            "labels": labels,
            "itm_labels": match,
            "mvm_draws": draws.random(len(match), dtype=np.float32),
        }


def collate_pairs(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Join samples into a batch of B pictures and P = sum of their texts; texts padded to the longest."""
    batch = stack_pictures([sample["picture"] for sample in samples])
    batch["input_ids"], batch["attention_mask"] = pad_texts([ids for sample in samples for ids in sample["ids"]], 0)
    batch["labels"], _ = pad_texts([label for sample in samples for label in sample["labels"]], IGNORE)
    batch["photos"] = torch.tensor([sample["photo"] for sample in samples])
    counts = torch.tensor([len(sample["ids"]) for sample in samples])
    batch["pair_image_index"] = torch.arange(len(samples)).repeat_interleave(counts)
    batch["itm_labels"] = torch.tensor([label for sample in samples for label in sample["itm_labels"]])
    batch["mvm_draws"] = torch.from_numpy(np.concatenate([sample["mvm_draws"] for sample in samples]))
    return batch
