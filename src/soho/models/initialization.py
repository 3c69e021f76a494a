"""Start from an ImageNet CNN and a BERT (section 4.1), and say exactly what came from where.

Weights that silently did not load are the field's most common reason for numbers that cannot be reproduced, so
anything missing or left over beyond a declared list is an error.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig, check_config_fields
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.visual_encoder import call_factory

# Module names that belong to one task only: they may be missing from, or left over in, a folder of another task.
TASK_HEADS = (
    "mlm_head",
    "mvm_head",
    "mask_vector",
    "match_head",
    "answer_head",
    "reasoning_head",
    "entailment_head",
    "contrast_head",
    "match_contrast",
)

BERT_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
    "output.LayerNorm": "output_norm",
}
BERT_EMBEDDINGS = {
    "word_embeddings": "word_embeddings",
    "position_embeddings": "position_embeddings",
    "token_type_embeddings": "token_type_embeddings",
    "LayerNorm": "norm",
}
BERT_HEAD = {
    "transform.dense.weight": "dense.weight",
    "transform.dense.bias": "dense.bias",
    "transform.LayerNorm.weight": "norm.weight",
    "transform.LayerNorm.bias": "norm.bias",
    "bias": "decoder.bias",
}


# We want to be told of tensors of another shape, to name them, instead of an exception that does not.
LOADING: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}


@dataclass
class LoadReport:
    """What a model's weights were made from.

    Attributes:
        loaded: part -> (source, number of tensors).
        initialised: part -> why it starts at random.
        left_over: declared leftovers of a source that no part wanted.
        ignored: settings that say nothing here, because another one decides.
    """

    loaded: dict[str, tuple[str, int]] = field(default_factory=dict)
    initialised: dict[str, str] = field(default_factory=dict)
    left_over: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one sentence a part, for the console and for the run's folder."""
        rows = [f"{part}: {count} tensors from {source}" for part, (source, count) in self.loaded.items()]
        rows += [f"{part}: new ({why})" for part, why in self.initialised.items()]
        return rows + [f"{part}: not used ({why})" for part, why in (self.left_over | self.ignored).items()]


def resolve_source(name: str) -> str:
    """Turn `package:NAME/folder` into the path of a folder inside an installed Python package.

    Anything else (a local folder, a hub id) is returned as it is.

    Raises:
        SohoError: the package is not installed or has no such folder.
    """
    if not name.startswith("package:"):
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # the parent of a dotted name
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SohoError(f"{name!r} needs the Python package {package!r}, which is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if not folder.is_dir():
        raise SohoError(f"the Python package {package!r} has no folder {inside!r}")
    return str(folder)


def text_config_fields(name: str, layers: int | None = None) -> dict[str, Any]:
    """Return the `SohoConfig` fields that a BERT checkpoint decides.

    Args:
        name: local folder, hub id or `package:NAME/folder`.
        layers: use only the first n layers.

    Raises:
        SohoError: the checkpoint cannot be read, is no BERT, or has fewer layers.
    """
    bert = _read(AutoConfig.from_pretrained, resolve_source(name), "a BERT configuration")
    if bert.model_type != "bert":
        raise SohoError(f"model.text={name!r} is a {bert.model_type!r} model; expected a BERT checkpoint")
    if bert.hidden_act != "gelu":
        raise SohoError(f"model.text={name!r} uses the activation {bert.hidden_act!r}; expected 'gelu'")
    depth = bert.num_hidden_layers if layers is None else layers
    if depth < 1:
        raise SohoError(f"model.text_layers={depth} must be at least 1")
    if depth > bert.num_hidden_layers:
        raise SohoError(f"model.text_layers={depth}, but {name!r} has only {bert.num_hidden_layers} layers")
    return {
        "vocab_size": bert.vocab_size,
        "hidden_size": bert.hidden_size,
        "num_hidden_layers": depth,
        "num_attention_heads": bert.num_attention_heads,
        "intermediate_size": bert.intermediate_size,
        "hidden_dropout_prob": bert.hidden_dropout_prob,
        "attention_probs_dropout_prob": bert.attention_probs_dropout_prob,
        "layer_norm_eps": bert.layer_norm_eps,
        "max_position_embeddings": bert.max_position_embeddings,
        "type_vocab_size": bert.type_vocab_size,
        "pad_token_id": bert.pad_token_id,
    }


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the WordPiece tokenizer of a BERT checkpoint or of a SOHO model folder."""
    return _read(AutoTokenizer.from_pretrained, resolve_source(name), "a WordPiece tokenizer")


def load_text(model: SohoPreTrainedModel, name: str) -> LoadReport:
    """Copy a BERT's embeddings, first layers and, where both sides have one, MLM head into a model.

    A model may have more layers than the BERT, up to twice as many, if the picture joins behind exactly the BERT's
    (`fusion_start`): the layers from there on start as copies of the BERT's last ones.

    Args:
        model: any SOHO model whose sizes fit (see `text_config_fields`).
        name: local folder, hub id or `package:NAME/folder`.

    Raises:
        SohoError: a tensor is missing, left over or of another shape; more layers than can be made.
    """
    bert, info = _read(AutoModelForMaskedLM.from_pretrained, resolve_source(name), "BERT weights", **LOADING)
    _shapes_fit(name, info)
    missing = set(info["missing_keys"])
    head_keys = {f"cls.predictions.{key}" for key in BERT_HEAD}
    has_head = not head_keys <= missing
    _none_left("is missing from", name, missing, () if has_head else (r"^cls\.",))
    _none_left("is left over in", name, info["unexpected_keys"], (r"(bert\.)?pooler\.", r"cls\.seq_relationship\."))
    source = {key.removeprefix("bert."): value for key, value in bert.state_dict().items()}
    trunk, config = model.trunk, model.config
    wanted: dict[str, str] = {}
    for theirs, ours in BERT_EMBEDDINGS.items():
        wanted |= _parameters(trunk.embeddings, ours, f"embeddings.{theirs}", f"embeddings.{ours}")
    depth, report = bert.config.num_hidden_layers, LoadReport()
    extra = max(0, config.num_hidden_layers - depth)
    if extra and (config.fusion_start != depth or extra > depth):
        raise SohoError(
            f"num_hidden_layers={config.num_hidden_layers}, but {name!r} has {depth} layers; only with "
            f"fusion_start={depth} may up to {depth} more stand behind them, which start as copies"
        )
    for number, layer in enumerate(trunk.fusion.layers):
        origin = number - extra if extra and number >= depth else number
        for theirs, ours in BERT_LAYER.items():
            there, here = f"encoder.layer.{origin}.{theirs}", f"fusion.layers.{number}.{ours}"
            wanted |= _parameters(layer, ours, there, here)
    _none_left("is missing from", name, set(wanted.values()) - set(source), ())
    copies = sum(int(here.split(".")[2]) >= depth for here in wanted if here.startswith("fusion.layers."))
    report.loaded["text embedding and fusion layers"] = (name, len(wanted) - copies)
    if copies:
        again = f"{name}, layers {depth - extra} to {depth - 1} once more"
        report.loaded[f"fusion layers {depth} to {depth + extra - 1}"] = (again, copies)
    _copy(trunk, {here: source[there] for here, there in wanted.items()}, name)
    head = getattr(model, "mlm_head", None)
    if head is not None and has_head:
        tensors = {here: source[f"cls.predictions.{there}"] for there, here in BERT_HEAD.items()}
        _copy(head, tensors, name)
        report.loaded["mlm_head"] = (name, len(tensors))
    elif head is not None:
        report.initialised["mlm_head"] = f"{name} has no masked-language head"
    unused = bert.config.num_hidden_layers - config.num_hidden_layers
    if unused > 0:
        report.left_over[f"layers {config.num_hidden_layers}..{bert.config.num_hidden_layers - 1}"] = (
            f"the first {config.num_hidden_layers} layers of {name} were asked for"
        )
    return report


def backbone_config_fields(name: str) -> dict[str, Any]:
    """Return the `visual_backbone` dict of a pre-trained transformers CNN (local folder or hub id)."""
    config = _read(AutoConfig.from_pretrained, resolve_source(name), "a CNN configuration")
    keep = config.to_diff_dict()
    for key in (
        "architectures",
        "transformers_version",
        "id2label",
        "label2id",
        "_name_or_path",
        "dtype",
        "torch_dtype",
    ):
        keep.pop(key, None)
    return {**keep, "model_type": config.model_type}


def load_backbone(model: SohoPreTrainedModel, name: str | None) -> LoadReport:
    """Copy pre-trained CNN weights into a model.

    Args:
        model: any SOHO model.
        name: local folder or hub id of a transformers CNN; None for the weights of the configured factory.

    Raises:
        SohoError: a tensor is missing, left over or of another shape.
    """
    report = LoadReport()
    target: Any = model.visual_backbone()
    if model.config.backbone_factory:
        name = str(model.config.backbone_factory)
        source: nn.Module = call_factory(model.config, pretrained=True)
    else:
        assert name is not None
        path = resolve_source(name)
        config = _read(AutoConfig.from_pretrained, path, "a CNN configuration")
        if config.model_type != target.config.model_type:
            raise SohoError(f"{name!r} is a {config.model_type!r} model; expected {target.config.model_type!r}")
        config.out_features = [config.stage_names[-1]]
        # Not by AutoBackbone, which asks the hub even for a local folder.
        source, info = _read(type(target).from_pretrained, path, "CNN weights", config=config, **LOADING)
        _shapes_fit(name, info)
        _none_left("is missing from", name, info["missing_keys"], (r"num_batches_tracked$",))
        _none_left("is left over in", name, info["unexpected_keys"], (r"^classifier\.", r"pooler"))
    state = source.state_dict()
    _none_left("is left over in", name, set(state) - set(target.state_dict()), ())
    _none_left("is missing from", name, set(target.state_dict()) - set(state), ())
    _copy(target, state, name)
    report.loaded["visual backbone"] = (name, len(state))
    return report


def read_config(folder: str) -> SohoConfig:
    """Read the configuration of a SOHO model folder or hub id, running no code of it.

    Raises:
        SohoError: there is none, or it is that of another kind of model.
    """
    # A hub id is exactly "owner/name"; anything deeper is a folder that is not there, mostly a run not made yet.
    if not Path(folder).is_dir() and (folder.count("/") != 1 or Path(folder).is_absolute() or folder.startswith(".")):
        raise SohoError(f"model.start={folder!r} is not a folder; expected one that save_pretrained wrote, or a hub id")
    saved = _read(AutoConfig.from_pretrained, folder, "a SOHO configuration")
    if not isinstance(saved, SohoConfig):
        raise SohoError(f"model.start={folder!r} is a {saved.model_type!r} model; expected a SOHO model")
    return saved


def load_model(
    model_class: type[SohoPreTrainedModel],
    folder: str,
    trust_remote_code: bool = False,
    trusted_factory: str | None = None,
    **config: Any,
) -> tuple[SohoPreTrainedModel, LoadReport]:
    """Load a SOHO model folder for any task; heads of other tasks are left over, a new head starts at random.

    Args:
        model_class: the class of the task at hand.
        folder: what `save_pretrained` wrote, or a hub id.
        trust_remote_code: allow a backbone factory from outside this package.
        trusted_factory: allow this one backbone factory, because the caller names it too.
        **config: `SohoConfig` fields to change, for instance `visual_input="features"`.

    Raises:
        SohoError: anything but a task head is missing or left over.
    """
    saved = read_config(folder)
    check_config_fields(config, type(saved))
    changed = type(saved)(**{**saved.to_dict(), **config})  # a new object, so that its values are checked
    trusted = trust_remote_code or (trusted_factory is not None and saved.backbone_factory == trusted_factory)
    options = {"config": changed, "trust_remote_code": trusted, **LOADING}
    model, info = _read(model_class.from_pretrained, folder, "a SOHO model", **options)
    _shapes_fit(folder, info)
    # All that a model has beside its trunk is a head, also in a class from outside this package.
    own = {name for name, part in model.named_children() if part is not model.trunk}
    names = {*TASK_HEADS, *(own if model is not model.trunk else ())}
    heads = tuple(rf"^{head}\." for head in sorted(names))
    # A model without dictionary may start from one that has it, and keeps the rest.
    spare = model.trunk.dictionary_parts if not model.config.use_dictionary else ()
    _none_left("is missing from", folder, info["missing_keys"], heads)
    _none_left("is left over in", folder, info["unexpected_keys"], (*heads, *spare))
    report = LoadReport()
    new, left = _heads(info["missing_keys"], names), _heads(info["unexpected_keys"], names)
    report.loaded["model"] = (folder, len(model.state_dict()) - len(info["missing_keys"]))
    report.initialised.update(dict.fromkeys(new, f"{folder} has none"))
    report.left_over.update(dict.fromkeys(left, "head of another task"))
    if any(part in key for part in spare for key in info["unexpected_keys"]):
        report.left_over["visual dictionary"] = "this model reads the features before it"
    return model, report


def new_model(
    model_class: type[SohoPreTrainedModel],
    config: SohoConfig,
    *,
    text: str | None = None,
    backbone: str | None = None,
    pretrained_factory: bool = True,
) -> tuple[SohoPreTrainedModel, LoadReport]:
    """Build a model and start it from a BERT and an ImageNet CNN where they are named.

    Args:
        model_class: one of the SOHO classes.
        config: its configuration, sizes already fitting the sources.
        text: BERT source or None.
        backbone: CNN source or None.
        pretrained_factory: let the configured factory bring its pre-trained weights.

    Returns:
        The model and the report of what was loaded.
    """
    model = model_class(config)
    report = LoadReport()
    if text is None:
        report.initialised["text embedding and fusion layers"] = "no BERT was named"
    else:
        _merge(report, load_text(model, text))
    learned = getattr(model.visual_backbone(), "pretrained_weights_exist", True)
    if backbone is not None or (config.backbone_factory and pretrained_factory and learned):
        _merge(report, load_backbone(model, backbone))
    else:
        report.initialised["visual backbone"] = "no pre-trained CNN was named"
    if config.use_dictionary:
        report.initialised["visual dictionary"] = "random, section 3.2"
    return model, report


def _merge(report: LoadReport, other: LoadReport) -> None:
    report.loaded |= other.loaded
    report.initialised |= other.initialised
    report.left_over |= other.left_over


def _heads(keys: Iterable[str], names: Set[str]) -> list[str]:
    return sorted({key.split(".")[0] for key in keys} & names)


def _parameters(module: nn.Module, name: str, there: str, here: str) -> dict[str, str]:
    return {f"{here}.{key}": f"{there}.{key}" for key in module.get_submodule(name).state_dict()}


def _shapes_fit(source: str, info: Mapping[str, Any]) -> None:
    for key, theirs, ours in sorted(info["mismatched_keys"]):
        raise SohoError(f"{source}: tensor {key!r} has shape {tuple(theirs)}, the model expects {tuple(ours)}")


def _copy(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    own = module.state_dict()
    for key, value in tensors.items():
        if own[key].shape != value.shape:
            raise SohoError(
                f"{source}: tensor {key!r} has shape {tuple(value.shape)}, the model expects {tuple(own[key].shape)}"
            )
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)


def _none_left(what: str, source: str, keys: Iterable[str], allowed: Sequence[str]) -> None:
    bad = sorted(key for key in keys if not any(re.search(pattern, key) for pattern in allowed))
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise SohoError(f"{bad[0]!r}{more} {what} {source}; nothing was loaded")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own load table and progress bars: our report says the same, and judges it."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _read(function: Any, source: str, what: str, **options: Any) -> Any:
    """Call a loader of transformers and turn its many errors into one sentence."""
    try:
        with quiet_transformers():
            return function(source, **options)
    except SohoError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SohoError(f"cannot read {what} from {source!r}: {reason}") from None
