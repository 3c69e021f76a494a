"""What a task is: a model class, the way examples become a batch, a measure. The loop knows no task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from soho.data.batching import AspectRatioBatches
from soho.data.dataset import EpochLoader, ExampleDataset, SampleKey, resolve_sizes
from soho.data.schema import Photo, photos_of
from soho.data.sources import Load, LoadNotes, Source, excluded_photographs, leave_out, load_captions
from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig, check_config_fields
from soho.models.initialization import (
    LoadReport,
    backbone_config_fields,
    load_model,
    load_tokenizer,
    new_model,
    read_config,
    text_config_fields,
)
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.processing.image_processing_soho import start_image_processor
from soho.processing.processing_soho import SohoProcessor
from soho.processing.vocabulary import train_wordpiece
from soho.tasks.batches import GreyCollate, PixelReader
from soho.tasks.groups import PictureGroup
from soho.training.recipe import Recipe

# What a SOHO folder brings; named beside `model.start` these keys would silently do nothing.
REPLACED_BY_START = ("text", "text_layers", "backbone", "backbone_config")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to draw in an epoch.

    Attributes:
        example: the record, or a `PictureGroup` of records about the same pictures.
        part: which of the example's captions, caption groups or rows.
        sizes: (width, height) of each picture of the example, filled in by `Task.loader`.
    """

    example: Any
    part: int = 0
    sizes: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the only, or first, picture."""
        return self.sizes[0]


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many."""

    rank: int = 0
    world_size: int = 1


class Task(ABC):
    """One task of the paper, set up from a recipe.

    Attributes:
        name: the recipe's `task` value.
        model_class: the SOHO class with this task's head.
        visual_input: what the Transformer reads unless the recipe says otherwise (section 4.2).
        read: how its sources are read, here and in `soho data check` and `soho data shard`: a loader of
            `soho.data.sources`, or one's own; captions unless a task says otherwise.
        has_baselines: whether a model without pictures and the most frequent answer say something of this task.
        recipe: the settings.
        processor: turns pictures and texts into tensors.
        pixels: reads pictures for all splits.
    """

    name: ClassVar[str]
    model_class: ClassVar[type[SohoPreTrainedModel]]
    visual_input: ClassVar[str] = "features"
    # A staticmethod: as a plain function it would take the task for the source.
    read: ClassVar[Load] = staticmethod(load_captions)
    has_baselines: ClassVar[bool] = False

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._check_baselines()
        self._loaded: dict[str, list[Any]] = {}
        self.notes: list[str] = []
        self._check_text_length()
        self.processor = self._build_processor()
        self.pixels = PixelReader(self.processor.image_processor, recipe.data.cache_megabytes, recipe.data.decoder)

    # What a new task has to say -----------------------------------------------------------------------------------

    def load(self, split: str) -> list[Any]:
        """Read the examples of a split ("train", "validation", "test"): all that `read` gives of the recipe's sources.

        A task that keeps only some of them, or reads anything else, overrides it.
        """
        return self.load_sources(split, type(self).read)

    @abstractmethod
    def texts(self) -> Sequence[str]:
        """Return the training texts a WordPiece vocabulary is trained on where no BERT is named."""

    @abstractmethod
    def train_loader(self, processes: Processes) -> EpochLoader:
        """Return the training batches of one process."""

    @abstractmethod
    def evaluate(
        self, model: SohoPreTrainedModel, split: str, processes: Processes, out: Path | None = None
    ) -> dict[str, float]:
        """Measure a model on a split; every process calls it, all return the same figures."""

    def config_fields(self) -> dict[str, Any]:
        """Return fields of `SohoConfig` that the data decide."""
        return {}

    # What all tasks share -----------------------------------------------------------------------------------------

    def examples(self, split: str) -> list[Any]:
        """Read a split once.

        Raises:
            SohoError: the recipe names no source for it.
        """
        if split not in self._loaded:
            if not getattr(self.recipe.data, split):
                raise SohoError(f"the recipe names no source under data.{split}, which this command needs")
            self._loaded[split] = self.load(split)
        return self._loaded[split]

    def build_model(self) -> tuple[SohoPreTrainedModel, LoadReport]:
        """Build the model of the recipe, from its start or its pre-trained parts.

        Raises:
            SohoError: an unknown configuration field, or weights that do not fit.
        """
        section = self.recipe.model
        check_config_fields(section.config, type(read_config(section.start)) if section.start else SohoConfig)
        fields = {"visual_input": self.visual_input, **self.config_fields(), **section.config}
        if section.start:
            # Naming a factory in one's own recipe is asking for its code; a folder alone is not.
            model, report = load_model(
                self.model_class, section.start, trusted_factory=section.backbone_factory, **fields
            )
            spare = [key for key in REPLACED_BY_START if getattr(section, key) is not None]
            if spare:
                keys = ", ".join(f"model.{key}" for key in spare)
                report.ignored[keys] = "model.start is given and brings these parts"
            return model, report
        tokenizer = self.processor.tokenizer
        ids = {"mask_token_id": tokenizer.mask_token_id, "pad_token_id": tokenizer.pad_token_id}
        sizes = text_config_fields(section.text, section.text_layers) if section.text else {}
        asked = section.config.get("num_hidden_layers", section.text_layers)
        if section.text_layers is not None and asked != section.text_layers:
            raise SohoError(
                f"model.text_layers={section.text_layers} and model.config.num_hidden_layers={asked} do not agree; "
                "give one of them"
            )
        sizes.setdefault("vocab_size", len(tokenizer))
        if section.backbone_factory:
            ids |= {
                "backbone_factory": section.backbone_factory,
                "backbone_factory_args": section.backbone_factory_args,
            }
        elif section.backbone:
            ids["visual_backbone"] = backbone_config_fields(section.backbone)
        elif section.backbone_config:
            ids["visual_backbone"] = section.backbone_config
        config = SohoConfig(**{**sizes, **ids, **fields})
        return new_model(self.model_class, config, text=section.text, backbone=section.backbone)

    def _check_baselines(self) -> None:
        """Refuse settings of the baselines where they would do nothing."""
        settings = {"data.image_blind": self.recipe.data.image_blind}
        settings["evaluation.baselines"] = self.recipe.evaluation.baselines
        for key, asked in settings.items():
            if asked and not self.has_baselines:
                raise SohoError(f"{key} is for vqa, nlvr2 and snli_ve; task {self.name} has no answer without pictures")
        if all(settings.values()):
            raise SohoError("evaluation.baselines trains a model on grey pictures itself; leave data.image_blind out")

    def _check_text_length(self) -> None:
        """Refuse texts that are longer than the model's learned positions."""
        section, length = self.recipe.model, self.recipe.data.text_length
        if section.start:
            limit, owner = read_config(section.start).max_position_embeddings, section.start
        elif section.text:
            fields = text_config_fields(section.text, section.text_layers)
            limit, owner = fields["max_position_embeddings"], section.text
        else:
            limit, owner = SohoConfig().max_position_embeddings, "the model"
        if not section.start and "max_position_embeddings" in section.config:
            limit, owner = section.config["max_position_embeddings"], "model.config.max_position_embeddings"
        if isinstance(limit, int) and length > limit:
            raise SohoError(f"data.text_length={length} is more than the {limit} text positions of {owner}; lower it")

    def _build_processor(self) -> SohoProcessor:
        data, section = self.recipe.data, self.recipe.model
        # How pictures are padded belongs to the weights; how large they are is the recipe's choice.
        images = start_image_processor(section.start, shorter_edge=data.shorter_edge, longer_edge=data.longer_edge)
        source = section.start or section.text
        if source:
            tokenizer = load_tokenizer(source)
        else:
            tokenizer = train_wordpiece(self.texts(), section.vocabulary_size)
        return SohoProcessor(image_processor=images, tokenizer=tokenizer, text_length=data.text_length)

    def load_sources(self, split: str, read: Callable[[Source], tuple[Sequence[Any], LoadNotes]]) -> list[Any]:
        """Read every source of a split with one of the loaders of `soho.data.sources`; keeps what they note.

        Photographs of `data.exclude` are left out of the training split.
        """
        examples: list[Any] = []
        excluded = excluded_photographs(self.recipe.data.exclude) if split == "train" else frozenset()
        for source in getattr(self.recipe.data, split):
            rows, notes = read(source)
            kept, remark = leave_out(list(rows), excluded)
            examples += kept
            self.notes += notes.lines()
            if remark:
                self.notes.append(f"{source.title} ({source.place}): {remark}")
        if not examples:
            raise SohoError(f"data.{split} holds no example; `soho data check` tells what was dropped and why")
        return examples

    def loader(
        self,
        items: Sequence[Item],
        load: Callable[[Item, SampleKey], dict[str, Any]],
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
        processes: Processes,
        *,
        batch_size: int,
        shuffle: bool,
    ) -> EpochLoader:
        """Return batches of one padded shape each; of one pair of shapes where an example has two pictures.

        A picture whose size cannot even be read is left out, counted and named in `notes`.
        """
        photos = [_photos(item.example) for item in items]
        unique = {str(photo.image): photo for own in photos for photo in own}
        sizes = dict(zip(unique, resolve_sizes(list(unique.values()), progress=processes.rank == 0)))
        broken = [name for name, size in sizes.items() if size[0] == 0]
        if broken:
            self.notes.append(f"{len(broken)} pictures cannot be read and are left out: {', '.join(broken[:5])}")
        kept = [
            replace(item, sizes=tuple(sizes[str(photo.image)] for photo in own)) for item, own in zip(items, photos)
        ]
        kept = [item for item in kept if all(width for width, _ in item.sizes)]
        if not kept:
            raise SohoError("none of the pictures can be read; `soho data check` names them")
        padded = self.processor.image_processor.padded_size
        batches = AspectRatioBatches(
            [tuple(edge for size in item.sizes for edge in padded(*size)) for item in kept],
            batch_size,
            self.recipe.seed,
            world_size=processes.world_size,
            rank=processes.rank,
            shuffle=shuffle,
        )
        dataset = ExampleDataset(kept, load)
        if self.recipe.data.image_blind:
            collate = GreyCollate(collate)
        return EpochLoader(dataset, batches, collate, workers=self.recipe.data.workers, seed=self.recipe.seed)

    def note_broken(self, loader: EpochLoader, split: str, effect: str) -> None:
        """Note which pictures of a split a loader could not decode, if any, and what that does to the figures."""
        if loader.broken:
            self.notes.append(
                f"{len(loader.broken)} pictures of data.{split} could not be decoded, and {effect}: "
                f"{'; '.join(loader.broken[:5])}"
            )


def _photos(example: Any) -> tuple[Photo, ...]:
    return example.photos if isinstance(example, PictureGroup) else photos_of(example)
