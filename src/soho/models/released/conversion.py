"""A released checkpoint to a model of this project and back; nothing is passed over in silence."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from soho.errors import SohoError
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.released.checkpoint import ReleasedCheckpoint
from soho.models.released.configuration_released import SohoReleasedConfig
from soho.models.released.keys import TIED_KEY, WORD_KEY, released_key
from soho.models.released.modeling_released_pretraining import SohoReleasedForPreTraining

BERT = "language.bert."
ANSWERS = "head.vqa."
MATCH = "head.match_class.weight"
# Channels of an attention head in every BERT; the tensors do not tell.
HEAD_WIDTH = 64


@dataclass
class ConversionReport:
    """What became of every key of a checkpoint.

    Attributes:
        source: the file.
        used: released key -> name in the model and shape.
        ignored: what was left out on purpose -> why.
        notes: other remarks.
    """

    source: str
    used: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report, one key a line."""
        rows = [f"{self.source}: {len(self.used)} tensors used, each under a new name"]
        rows += [f"note: {note}" for note in self.notes]
        rows += [f"ignored: {key} ({why})" for key, why in self.ignored.items()]
        return rows + [f"used: {key} -> {name}" for key, name in self.used.items()]


class _Shapes:
    """Shapes of a checkpoint's tensors, with sentences where one is absent."""

    def __init__(self, checkpoint: ReleasedCheckpoint) -> None:
        self.path, self.tensors = checkpoint.path, checkpoint.tensors

    def __call__(self, key: str, dimensions: int) -> tuple[int, ...]:
        if key not in self.tensors:
            raise SohoError(f"{self.path}: tensor {key!r} is missing; expected a checkpoint of the 2021 release")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise SohoError(f"{self.path}: tensor {key!r} has shape {shape}; expected {dimensions} dimensions")
        return shape

    def count(self, pattern: str) -> int:
        """Return how many different numbers the group of a pattern takes at the start of the keys."""
        found = {match[1] for key in self.tensors if (match := re.match(pattern, key))}
        return len(found)


def config_of(
    checkpoint: ReleasedCheckpoint,
    *,
    heads: int | None = None,
    answers: Sequence[str] | None = None,
    mask_width_defect: bool = False,
    pad_token_id: int = 0,
    mask_token_id: int | None = None,
) -> tuple[SohoReleasedConfig, list[str]]:
    """Read the sizes of a model off the shapes of its tensors.

    Args:
        checkpoint: the file's content.
        heads: attention heads; None takes the file's own settings, else 64 channels a head.
        answers: answer vocabulary in index order, for a question-answering checkpoint.
        mask_width_defect: see `SohoReleasedConfig`.
        pad_token_id: id of `[PAD]`.
        mask_token_id: id of `[MASK]`; None: BERT's, as far as the vocabulary reaches.

    Returns:
        The configuration and notes on what the tensors did not tell.

    Raises:
        SohoError: a tensor that tells a size is missing or has no such shape, or the sizes contradict each other.
    """
    shapes = _Shapes(checkpoint)
    notes: list[str] = []
    vocabulary, width = shapes(WORD_KEY, 2)
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": shapes.count(r"language\.bert\.encoder\.layer\.(\d+)\."),
        "intermediate_size": shapes(f"{BERT}encoder.layer.0.intermediate.dense.weight", 2)[0],
        "max_position_embeddings": shapes(f"{BERT}embeddings.position_embeddings.weight", 2)[0],
        "type_vocab_size": shapes(f"{BERT}embeddings.token_type_embeddings.weight", 2)[0],
        "visual_backbone": _resnet_fields(shapes),
        "mask_width_defect": mask_width_defect,
        "pad_token_id": pad_token_id,
        # Only the masking of texts uses it; this wiring has a mask vector of its own for cells.
        "mask_token_id": min(103, vocabulary - 1) if mask_token_id is None else mask_token_id,
    }
    fields["num_attention_heads"], note = _heads(checkpoint, width, heads)
    notes.append(note)
    has_answers = any(key.startswith(ANSWERS) for key in checkpoint.tensors)
    if has_answers == (MATCH in checkpoint.tensors):
        word = "both" if has_answers else "neither"
        raise SohoError(
            f"{checkpoint.path} has {word} the head of pre-training ({MATCH}) and that of question answering "
            f"({ANSWERS}*); expected one of them"
        )
    if has_answers:
        inner, _ = shapes(f"{ANSWERS}0.weight", 2)
        count, _ = shapes(f"{ANSWERS}3.weight", 2)
        if inner % width:
            raise SohoError(f"{checkpoint.path}: {ANSWERS}0.weight has {inner} rows; expected a multiple of {width}")
        fields |= {"visual_input": "features", "answer_head_width": inner // width}
        fields["answers"], more = _answers(checkpoint, count, answers)
        notes += more
    else:
        if answers is not None:
            raise SohoError(
                f"{checkpoint.path} is a pre-training checkpoint and answers no questions; leave answers out"
            )
        fields |= {"visual_input": "dictionary", "dictionary_size": shapes("neck.vq.embed", 2)[0]}
    try:
        return SohoReleasedConfig(**fields), notes
    except SohoError as error:
        raise SohoError(f"{checkpoint.path}: {error}") from None


def from_released(
    checkpoint: ReleasedCheckpoint, config: SohoReleasedConfig
) -> tuple[SohoPreTrainedModel, ConversionReport]:
    """Make a model from a checkpoint; every key is used or ignored for a named reason.

    Args:
        checkpoint: the file's content.
        config: from `config_of`.

    Returns:
        The model, in evaluation mode, and the report.

    Raises:
        SohoError: a key that is missing or unknown, a tensor of another shape, or a second copy of the word embedding
            that differs from the first.
    """
    path, tensors = checkpoint.path, dict(checkpoint.tensors)
    report = ConversionReport(str(path), ignored=dict(checkpoint.ignored), notes=list(checkpoint.notes))
    model_class = SohoReleasedForPreTraining if config.use_dictionary else SohoForQuestionAnswering
    model: SohoPreTrainedModel = model_class(config)
    own = model.state_dict()
    names = parameter_names(model)
    if TIED_KEY in names:
        del names[TIED_KEY]  # one matrix under two names: copied once
        second = tensors.pop(TIED_KEY, None)
        if second is not None and not torch.equal(second, tensors.get(WORD_KEY, second)):
            raise SohoError(f"{path}: {TIED_KEY!r} differs from {WORD_KEY!r}; expected one matrix stored twice")
        if second is not None:
            report.ignored[TIED_KEY] = f"the same matrix as {WORD_KEY}, bit for bit"
    missing, unknown = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
    if missing or unknown:
        told = [f"{_first(missing)} missing"] if missing else []
        told += [f"{_first(unknown)} unknown"] if unknown else []
        raise SohoError(f"{path}: {' and '.join(told)}; nothing was loaded")
    for key, name in names.items():
        if tensors[key].shape != own[name].shape:
            raise SohoError(
                f"{path}: tensor {key!r} has shape {tuple(tensors[key].shape)}; expected {tuple(own[name].shape)}"
            )
    with torch.no_grad():
        for key, name in names.items():
            own[name].copy_(tensors[key])
            report.used[key] = f"{name} {tuple(own[name].shape)}"
    return model.eval(), report


def to_released(model: SohoPreTrainedModel) -> OrderedDict[str, Tensor]:
    """Return a model's tensors under the keys of the release, the tied matrix twice as there.

    Args:
        model: `SohoReleasedForPreTraining` or a `SohoForQuestionAnswering` in the released wiring.

    Raises:
        SohoError: the model has a part that the release does not know.
    """
    if not isinstance(model.config, SohoReleasedConfig):
        raise SohoError(f"a model with {type(model.config).__name__} has no counterpart in the release")
    result: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in model.state_dict().items():
        try:
            result[released_key(name)] = tensor.detach().clone()
        except KeyError:
            raise SohoError(f"the release has no tensor like {name!r}") from None
    return result


def _resnet_fields(shapes: _Shapes) -> dict[str, Any]:
    stages = shapes.count(r"backbone\.layer(\d+)\.")
    depths = [shapes.count(rf"backbone\.layer{stage + 1}\.(\d+)\.") for stage in range(stages)]
    last = 3 if "backbone.layer1.0.conv3.weight" in shapes.tensors else 2
    return {
        "model_type": "resnet",
        "layer_type": "bottleneck" if last == 3 else "basic",
        "embedding_size": shapes("backbone.conv1.weight", 4)[0],
        "depths": depths,
        "hidden_sizes": [shapes(f"backbone.layer{stage + 1}.0.conv{last}.weight", 4)[0] for stage in range(stages)],
    }


def _heads(checkpoint: ReleasedCheckpoint, width: int, heads: int | None) -> tuple[int, str]:
    if heads is not None:
        return heads, f"{heads} attention heads, as asked for"
    if found := re.search(r"num_attention_heads\W{1,6}(\d+)", checkpoint.settings):
        return int(found[1]), f"{found[1]} attention heads, from the settings in the file"
    if width % HEAD_WIDTH:
        raise SohoError(
            f"{checkpoint.path} does not tell its number of attention heads, and {width} channels are no multiple of "
            f"{HEAD_WIDTH}; name it with --heads"
        )
    count = width // HEAD_WIDTH
    return count, f"{count} attention heads, {HEAD_WIDTH} channels each as in BERT; the file does not tell"


def _answers(checkpoint: ReleasedCheckpoint, count: int, answers: Sequence[str] | None) -> tuple[list[str], list[str]]:
    if answers is None:
        note = f"no answers were named; the {count} of them are called 'answer 0', 'answer 1', ... (see --answers)"
        return [f"answer {number}" for number in range(count)], [note]
    if len(answers) != count:
        raise SohoError(f"{checkpoint.path} chooses between {count} answers, but {len(answers)} were named")
    return list(answers), []


def _first(keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return f"key {keys[0]!r} is"
    return f"key {keys[0]!r} and {len(keys) - 1} more are"


def parameter_names(model: SohoPreTrainedModel) -> dict[str, str]:
    """Return released key -> our name of every tensor of a model in the released wiring."""
    return {released_key(name): name for name in model.state_dict()}
