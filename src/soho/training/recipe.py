"""The recipe: every setting of a run, typed, described and checked.

A recipe is a YAML file. `load_recipe` reads it, applies `key=value` overrides and refuses what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from soho.data.sources import Source
from soho.errors import SohoError
from soho.training.recipe_files import read_recipe_values
from soho.training.recipe_messages import describe, error_sentence

Precision = Literal["fp32", "bf16", "fp16"]
# A recipe's paths come as text, so they alone are exempt from strict types ("yes" is no number, 1.5 no integer).
AnyPath = Annotated[Path, Field(strict=False)]


class Section(BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, protected_namespaces=())


class ModelSection(Section):
    """What the model is made of and where its weights start."""

    start: str | None = Field(default=None, description="folder or hub id of a SOHO model to start from")
    backbone: str | None = Field(default=None, description="ImageNet CNN to start from: local folder or hub id")
    backbone_config: dict[str, Any] | None = Field(
        default=None, description="transformers backbone config for a random start, e.g. {model_type: resnet, ...}"
    )
    backbone_factory: str | None = Field(
        default=None, description="Python function that builds the CNN, 'package.module:function'"
    )
    backbone_factory_args: dict[str, Any] = Field(default={}, description="keyword arguments of backbone_factory")
    text: str | None = Field(
        default=None,
        description="BERT to start from: folder, hub id, or 'package:NAME/sub/folder' in an installed package",
    )
    text_layers: int | None = Field(default=None, ge=1, description="keep only the first n layers of `text`")
    vocabulary_size: int = Field(
        default=8192, ge=32, description="size of the WordPiece vocabulary trained on the captions where `text` is null"
    )
    config: dict[str, Any] = Field(default={}, description="fields of SohoConfig, e.g. {num_hidden_layers: 3}")

    @model_validator(mode="after")
    def _layers_of_something(self) -> ModelSection:
        if self.text_layers is not None and self.text is None and self.start is None:
            raise ValueError(f"text_layers={self.text_layers} needs text, the BERT whose first layers are kept")
        return self


class DataSection(Section):
    """What is read and how examples are made from it."""

    root: AnyPath | None = Field(default=None, description="folder that replaces {root} at the start of any path")
    train: list[Source] = Field(default=[], description="data sets to train on")
    validation: list[Source] = Field(default=[], description="data sets measured during training")
    test: list[Source] = Field(default=[], description="data sets of the final evaluation")
    exclude: list[Source] = Field(
        default=[], description="data sets whose photographs are left out of train; their pictures are not opened"
    )
    shorter_edge: int = Field(default=600, ge=32, description="pixels of the shorter image edge after resizing")
    longer_edge: int = Field(default=1000, ge=32, description="upper bound in pixels of the longer image edge")
    text_length: int = Field(default=16, ge=3, description="tokens per text with [CLS] and [SEP]; longer texts are cut")
    captions_per_image_per_epoch: int | None = Field(
        default=None,
        ge=1,
        description="at most this many captions of an image per epoch, rounded up to whole groups; null = all",
    )
    positives_per_image: int = Field(default=2, ge=1, description="pre-training: matching texts beside an image")
    negatives_per_image: int = Field(
        default=2, ge=0, description="pre-training: texts of other photographs beside an image"
    )
    mask_probability: float = Field(default=0.15, gt=0, lt=1, description="share of text tokens that MLM masks")
    answers: AnyPath | None = Field(
        default=None, description="answer vocabulary as JSON; null = built from the train set"
    )
    answer_minimum_count: int = Field(
        default=9, ge=1, description="an answer enters the vocabulary when it occurs this often"
    )
    image_blind: bool = Field(
        default=False, description="vqa, nlvr2, snli_ve: text-only baseline, every image is replaced by grey"
    )
    questions_per_image: int = Field(
        default=1,
        ge=1,
        description="vqa, nlvr2, snli_ve: training texts about one image that go through the CNN together",
    )
    cache_megabytes: int = Field(
        default=0, ge=0, description="memory for decoded images, per data loading process; small sets only"
    )
    decoder: Literal["pillow", "simplejpeg"] = Field(
        default="pillow",
        description="reads JPEG; simplejpeg (pip install 'soho-vlp[fast]') decodes large photographs at the size that "
        "is needed, which changes pixels a little",
    )
    workers: int = Field(default=2, ge=0, description="data loading processes per training process")

    @model_validator(mode="after")
    def _edges_in_order(self) -> DataSection:
        if self.longer_edge < self.shorter_edge:
            raise ValueError(f"longer_edge ({self.longer_edge}) is below shorter_edge ({self.shorter_edge})")
        return self


class OptimizerSection(Section):
    """One optimizer."""

    name: Literal["sgd", "adamw"] = Field(default="adamw", description="which optimizer")
    lr: float = Field(default=1e-4, ge=0, description="learning rate after warm-up, before any decay")
    weight_decay: float = Field(default=1e-2, ge=0, description="weight decay")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum (sgd only)")
    betas: list[float] = Field(
        default=[0.9, 0.999], min_length=2, max_length=2, description="moment decays (adamw only)"
    )
    eps: float = Field(default=1e-6, gt=0, description="added to the denominator (adamw only)")


class BackboneOptimizerSection(OptimizerSection):
    """The optimizer of the visual backbone; the paper's values (section 4.1)."""

    name: Literal["sgd", "adamw"] = Field(default="sgd", description="which optimizer")
    lr: float = Field(default=1e-2, ge=0, description="learning rate after warm-up, before any decay")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay")


class ScheduleSection(Section):
    """How the learning rates change; counted in optimizer steps."""

    kind: Literal["step", "cosine", "constant", "linear"] = Field(
        default="step", description="step: times `factor` at each milestone; cosine, linear: down to 0 at the last step"
    )
    milestones: list[float] = Field(
        default=[25.0, 35.0], description="epochs at which the rate drops; fractions allowed (step)"
    )
    factor: float = Field(default=0.1, gt=0, le=1, description="what the rate is multiplied by at a milestone (step)")
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps of linear warm-up")
    warmup_from: float | None = Field(
        default=None, ge=0, le=1, description="share of the rate at the first step of warm-up; null = 1/warmup_steps"
    )

    @model_validator(mode="after")
    def _milestones_in_order(self) -> ScheduleSection:
        if self.milestones != sorted(self.milestones) or any(epoch < 0 for epoch in self.milestones):
            raise ValueError(f"milestones must be epochs in ascending order, got {self.milestones}")
        return self


class TrainingSection(Section):
    """The loop. An optimizer step is `accumulation` micro-batches on every process."""

    epochs: int = Field(default=40, ge=1, description="passes over the training data")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimizer steps, if earlier")
    batch_size: int = Field(
        default=16, ge=1, description="images per process and micro-batch (retrieval: the t aligned pairs)"
    )
    accumulation: int = Field(default=1, ge=1, description="micro-batches per optimizer step")
    precision: Precision = Field(default="fp32", description="arithmetic of the forward and backward pass")
    clip_norm: float | None = Field(
        default=10.0, gt=0, description="upper bound of the global gradient norm; null = none"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations: less memory, more time")
    fsdp: bool = Field(
        default=False,
        description="share weights, gradients and moments out over the processes (torch's FSDP2; the CNN stays whole): "
        "less memory, more communication",
    )
    channels_last: bool = Field(default=True, description="channels-last memory layout of the CNN")
    freeze_backbone_epochs: int = Field(
        default=0, ge=-1, description="the CNN stays fixed for the first n epochs, its batch norm too; -1 = always"
    )
    frozen_feature_megabytes: int = Field(
        default=0,
        ge=0,
        description="memory for the feature maps of a frozen CNN, which then sees each image once; small sets only",
    )
    backbone_optimizer: BackboneOptimizerSection = Field(
        default=BackboneOptimizerSection(), description="optimizer of the CNN"
    )
    optimizer: OptimizerSection = Field(default=OptimizerSection(), description="optimizer of everything else")
    frozen: list[str] = Field(
        default=[],
        description="modules whose weights stay as they are, without dropout, e.g. [soho.embeddings, "
        "soho.fusion.layers.0]; for the CNN see freeze_backbone_epochs",
    )
    lr_factors: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="module -> factor on its learning rates, e.g. {soho.embeddings: 0.1}; the longest name that fits "
        "counts",
    )
    decay_bias_and_norm: bool = Field(default=False, description="weight decay on biases and normalisation layers too")
    schedule: ScheduleSection = Field(default=ScheduleSection(), description="learning rates over time")
    log_every: int = Field(default=20, ge=1, description="optimizer steps between log lines")
    checkpoint_every: int | None = Field(
        default=500, ge=1, description="optimizer steps between checkpoints; null = only at the end and when stopped"
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="how many of the newest checkpoints stay")
    evaluate_every: float | None = Field(
        default=None, gt=0, description="epochs between evaluations on data.validation, fractions allowed; null = never"
    )
    resume: bool = Field(default=True, description="continue from the newest checkpoint in `output`")

    @model_validator(mode="after")
    def _no_scaler_for_parts(self) -> TrainingSection:
        if self.fsdp and self.precision == "fp16":
            raise ValueError(
                "fsdp=true does not go with precision=fp16, whose gradient scaler would see a part of the gradients "
                "only; use bf16 or fp32"
            )
        return self


class EvaluationSection(Section):
    """How a model is measured; has no influence on training."""

    batch_size: int = Field(default=32, ge=1, description="images, questions, statements or hypotheses per batch")
    max_images: int | None = Field(default=None, ge=1, description="retrieval: only the first n images")
    captions_per_image: int | None = Field(
        default=None, ge=1, description="retrieval: only the first n captions of each image"
    )
    max_texts: int | None = Field(default=None, ge=1, description="retrieval: only the first n captions")
    folds: int | None = Field(
        default=None, ge=2, description="retrieval: also the mean over n folds of the gallery (5 for COCO 1K)"
    )
    shortlist: int | None = Field(
        default=None,
        ge=1,
        description="retrieval: score only the best n texts of each image and images of each text by contrastive "
        "similarity (needs model.config.itc_weight above 0); null = every pair, as in the paper",
    )
    pair_batch: int = Field(default=512, ge=1, description="retrieval: most image-text pairs scored at once")
    precision: Precision = Field(default="fp32", description="arithmetic of the forward pass")
    baselines: bool = Field(
        default=False,
        description="vqa, nlvr2, snli_ve: also measure the most frequent training answer, and a model trained by the "
        "same recipe on grey images (in output/blind)",
    )


class Recipe(Section):
    """Every setting of a run."""

    task: str = Field(
        description="what is trained: pretraining, retrieval, vqa, nlvr2, snli_ve, or package.module:Class"
    )
    output: AnyPath = Field(description="folder of the run: model, checkpoints, log")
    seed: int = Field(default=0, ge=0, description="all randomness follows from it")
    model: ModelSection = Field(default=ModelSection(), description="the model and its start")
    data: DataSection = Field(default=DataSection(), description="data sets and how examples are made")
    training: TrainingSection = Field(default=TrainingSection(), description="the loop")
    evaluation: EvaluationSection = Field(default=EvaluationSection(), description="measuring")

    def dump(self, path: Path) -> None:
        """Write the resolved recipe as YAML that `load_recipe` reads back to an equal recipe."""
        path.write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and check a recipe; see `recipe_files.read_recipe_values` for bases and overrides.

    Args:
        path: the YAML file. Relative paths inside it are relative to the current working directory.
        overrides: `dotted.key=value` texts.

    Returns:
        The recipe, with every default filled in.

    Raises:
        SohoError: an unknown key (the nearest valid one is named), a wrong type or a value out of bounds.
    """
    found = read_recipe_values(Path(path), overrides)
    try:
        return Recipe.model_validate(found.values)
    except ValidationError as error:
        raise SohoError(error_sentence(error, found, Recipe)) from None


def describe_recipe() -> str:
    """Return every recipe key with its type, default and one-line description."""
    return describe(Recipe, "A recipe is a YAML file with these keys (override on the command line: key=value).")


# Schedules that end at the last step: with another number of steps the steps already done would have had other rates.
ENDING_SCHEDULES = ("cosine", "linear")
LENGTHS = ("training.epochs", "training.max_steps")

# Fields that may differ between the parts of one resumed run: they steer where, how long and how often, not what.
FREE_TO_CHANGE = (
    "output",
    "evaluation",
    "data.root",
    "data.validation",
    "data.test",
    "data.workers",
    "data.cache_megabytes",
    *LENGTHS,
    "training.fsdp",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.evaluate_every",
    "training.resume",
)


def resume_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys in which two dumped recipes would train differently; empty = one run may continue.

    The length of a run is free to change only where the learning rates do not depend on it.

    Args:
        before: `Recipe.model_dump(mode="json")` of the run so far.
        now: the same of the recipe at hand.
    """
    old, new = dict(_flatten(before)), dict(_flatten(now))
    fixed = LENGTHS if new.get("training.schedule.kind") in ENDING_SCHEDULES else ()
    return [
        key
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key)
        and (key in fixed or not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE))
    ]


def _flatten(node: Any, dotted: str = "") -> Iterator[tuple[str, Any]]:
    children: Iterator[tuple[Any, Any]]
    if isinstance(node, Mapping):
        children = iter(node.items())
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        # A key that is missing (an older version wrote the file) counts as null.
        yield dotted, node
        return
    for key, value in children:
        yield from _flatten(value, f"{dotted}.{key}" if dotted else str(key))
