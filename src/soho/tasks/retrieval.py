"""Image-text retrieval: is this pair aligned? (section 4.2.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from soho.data.dataset import DecodeLog, EpochLoader, SampleKey, resolve_sizes
from soho.data.schema import CaptionedImage
from soho.errors import SohoError
from soho.evaluation.pair_scoring import fingerprint_of, gather_scores, score_all_pairs
from soho.evaluation.recompute import shortlist_recall, write_gallery
from soho.evaluation.retrieval_protocols import fold_bounds, retrieval_figures
from soho.models.losses import IGNORE
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.pair_scorer import GridScorer
from soho.tasks.base import Item, Processes, Task
from soho.tasks.batches import AUTOCAST, pad_texts, sample_picture, stack_pictures
from soho.training.recipe import Recipe


class RetrievalTask(Task):
    """Retrieval on captioned pictures: t aligned pairs a batch, the other t - 1 captions of each picture unaligned."""

    name: ClassVar[str] = "retrieval"
    model_class: ClassVar[type[SohoPreTrainedModel]] = SohoForImageTextRetrieval

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._galleries: dict[str, list[CaptionedImage]] = {}

    def texts(self) -> Sequence[str]:
        """Return all training captions."""
        return [caption for image in self.examples("train") for caption in image.captions]

    def train_loader(self, processes: Processes) -> EpochLoader:
        """Return batches of t aligned pairs; every caption comes once an epoch."""
        items = [Item(example, number) for example in self.examples("train") for number in range(len(example.captions))]
        return self.loader(
            items,
            self._sample,
            collate_grid,
            processes,
            batch_size=self.recipe.training.batch_size,
            shuffle=True,
        )

    def _sample(self, item: Item, key: SampleKey) -> dict[str, Any]:
        processor = self.processor
        return {
            "picture": sample_picture(self.pixels, item.example.image, item.size, filler=key.filler, blind=False),
            "ids": processor.encode(item.example.captions[item.part]),
            "photo_key": item.example.photo_key,
            "filler": key.filler,
        }

    def evaluate(
        self, model: SohoPreTrainedModel, split: str, processes: Processes, out: Path | None = None
    ) -> dict[str, float]:
        """Score all pictures against all captions of a split.

        Where `out` is given the score matrix stays there, and `soho.evaluation.recompute` reads it. With
        `evaluation.shortlist: k` it stays in `shortlist-<k>` below, and is measured against the exact scores of the
        same model and data where those are in `out`.

        Returns:
            TR and IR recalls and median ranks, and each one's chance level under `chance/`. With `evaluation.folds`
            also their mean over folds, behind the size of a fold: `1k/tr_r1`. With `evaluation.max_images` /
            `max_texts` the gallery is the first n of each, less the pictures that cannot be read; the figures tell
            its size by `images` and `texts`. A shortlist adds `shortlist`, and, measured against exact scores, what
            `shortlist_recall` returns.

        Raises:
            SohoError: the model has no contrastive head but a shortlist is wanted, or the gallery cannot be cut into
                `evaluation.folds`; told before anything is scored.
        """
        assert isinstance(model, SohoForImageTextRetrieval)
        folds = self.recipe.evaluation.folds
        if folds is not None:
            fold_bounds(len(self.gallery(split)), self.gallery_texts(split)[1], folds)
        scores, text_image = self.score(model, split, processes, out)
        shortlist = self.recipe.evaluation.shortlist
        figures = retrieval_figures(scores, text_image, folds)
        if shortlist is not None:
            figures["shortlist"] = float(shortlist)
        if out is not None and processes.rank == 0:
            names = [str(example.image) for example in self.gallery(split)]
            folder = self._score_folder(out)
            write_gallery(folder, names, self.gallery_texts(split)[0], text_image, processes.world_size, shortlist)
            if shortlist is not None:
                figures |= self._against_exact(folder, out)
        return figures

    def _score_folder(self, out: Path) -> Path:
        """Return where the scores lie: those of a shortlist must not replace exact ones."""
        shortlist = self.recipe.evaluation.shortlist
        return out if shortlist is None else out / f"shortlist-{shortlist}"

    def _against_exact(self, folder: Path, exact: Path) -> dict[str, float]:
        """Return what a shortlist keeps of the exact top ten, nothing where exact scores are not there (told)."""
        try:
            return shortlist_recall(folder, exact)
        except SohoError as error:
            self.notes.append(f"the recall of the shortlist against exact scores is not known: {error}")
            return {}

    def score(
        self, model: SohoForImageTextRetrieval, split: str, processes: Processes, out: Path | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the (images, texts) scores of a split and the (texts,) index of each text's picture."""
        settings = self.recipe.evaluation
        if settings.shortlist is not None and model.contrast_head is None:
            raise SohoError(
                f"evaluation.shortlist={settings.shortlist} needs a model with the contrastive head "
                "(model.config.itc_weight above 0), and this one has none; expected null for it"
            )
        examples = self.gallery(split)
        captions, text_image = self.gallery_texts(split)
        ids, attention = pad_texts(self.processor.encode_batch(captions), 0)
        items = [Item(example, row) for row, example in enumerate(examples)]
        # Every process decodes all pictures (cheap beside fusion), and encodes and fuses only its own share of them.
        loader = self.loader(
            items, self._image_sample, collate_images, Processes(), batch_size=settings.batch_size, shuffle=False
        )
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        scores = score_all_pairs(
            GridScorer(model, torch.bfloat16 if settings.precision == "bf16" else torch.float32),
            _image_batches(loader),
            ids,
            attention,
            pair_batch=settings.pair_batch,
            dtype=torch.bfloat16 if settings.precision == "bf16" else torch.float32,
            out=None if out is None else self._score_folder(out),
            device=device,
            autocast=AUTOCAST[settings.precision],
            fingerprint=fingerprint_of(
                model,
                [str(example.image) for example in examples],
                captions,
                self.processor.image_processor.to_dict(),
                settings.precision,
            ),
            image_count=len(examples),
            rank=processes.rank,
            world_size=processes.world_size,
            shortlist=settings.shortlist,
        )
        model.train(training)
        self.note_broken(loader, split, "stood in the gallery as empty ones")
        return gather_scores(scores, len(examples)), text_image

    def gallery(self, split: str) -> list[CaptionedImage]:
        """Return the pictures that `score` ranks, without those whose file cannot even be opened (told in `notes`)."""
        if split not in self._galleries:
            examples = self.examples(split)[: self.recipe.evaluation.max_images]
            log = DecodeLog()
            # Sizes that the annotations tell are no sign that the file is there and whole.
            sizes = resolve_sizes([replace(example, width=0, height=0) for example in examples], log=log)
            if log.messages:
                self.notes.append(
                    f"{len(log.messages)} pictures of data.{split} cannot be read and are left out of the gallery with "
                    f"their captions: {'; '.join(log.messages[:5])}"
                )
            kept = [
                replace(example, width=size[0], height=size[1]) for example, size in zip(examples, sizes) if size[0]
            ]
            if not kept:
                raise SohoError(f"none of the pictures of data.{split} can be read; `soho data check` names them")
            self._galleries[split] = kept
        return self._galleries[split]

    def gallery_texts(self, split: str) -> tuple[list[str], np.ndarray]:
        """Return the captions that `score` ranks and the (texts,) row of each one's picture."""
        settings = self.recipe.evaluation
        pairs = [
            (row, caption)
            for row, example in enumerate(self.gallery(split))
            for caption in example.captions[: settings.captions_per_image]
        ][: settings.max_texts]
        return [caption for _, caption in pairs], np.array([row for row, _ in pairs])

    def _image_sample(self, item: Item, key: SampleKey) -> dict[str, Any]:
        picture = sample_picture(self.pixels, item.example.image, item.size, filler=key.filler, blind=False)
        return {"picture": picture, "row": item.part}


def _image_batches(loader: EpochLoader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for batch in loader.epoch(0):
        yield batch["pixel_values"], batch["pixel_mask"], batch["rows"]


def collate_images(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Join pictures and the numbers of their rows."""
    pictures = stack_pictures([sample["picture"] for sample in samples])
    return {**pictures, "rows": torch.tensor([sample["row"] for sample in samples])}


def collate_grid(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Pair every picture of a batch with every caption of it: t x t pairs, the diagonal aligned.

    A caption of the same photograph off the diagonal is no negative: its label is ignored. So are fillers.
    """
    batch = stack_pictures([sample["picture"] for sample in samples])
    batch["input_ids"], batch["attention_mask"] = pad_texts([sample["ids"] for sample in samples], 0)
    count = len(samples)
    batch["pair_image_index"] = torch.arange(count).repeat_interleave(count)
    batch["pair_text_index"] = torch.arange(count).repeat(count)
    labels = torch.eye(count, dtype=torch.long)
    for row, left in enumerate(samples):
        for column, right in enumerate(samples):
            same_photo = row != column and left["photo_key"] == right["photo_key"]
            if same_photo or left["filler"] or right["filler"]:
                labels[row, column] = IGNORE
    batch["labels"] = labels.flatten()
    return batch
