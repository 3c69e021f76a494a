"""What an exported folder says of itself beside the graph: names, labels, how pictures and texts are prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from soho.errors import SohoError
from soho.export.graph import OneTextAPair
from soho.export.inputs import Agreement
from soho.export.onnx_file import OUTPUTS
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES, SohoForVisualEntailment
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.processing.processing_soho import SohoProcessor

MODEL, INT8, TOKENIZER = "model.onnx", "model.int8.onnx", "tokenizer.json"
PREPROCESSING, ABOUT = "preprocessing.json", "soho_onnx.json"
# Largest difference between torch and onnxruntime in float32: of a logit, as a share of the largest where that is above
# 1, and of a probability.
TOLERANCE = 1e-4
PICTURE_SETTINGS = (
    "do_resize",
    "shorter_edge",
    "longer_edge",
    "size_divisor",
    "smallest_padded_edge",
    "resample",
    "image_mean",
    "image_std",
)
# Task -> what the columns of the probabilities are.
TASKS: dict[type[SohoPreTrainedModel], tuple[str, tuple[str, ...]]] = {
    SohoForImageTextRetrieval: ("retrieval", ("no match", "match")),
    SohoForQuestionAnswering: ("vqa", ()),
    SohoForVisualReasoning: ("nlvr2", ("false", "true")),
    SohoForVisualEntailment: ("snli_ve", ENTAILMENT_CLASSES),
}


def describe(
    model: SohoPreTrainedModel,
    graph: OneTextAPair,
    step: int,
    sizes: Mapping[str, int],
    agreements: Mapping[str, Agreement | None],
) -> dict[str, Any]:
    """Return the content of `soho_onnx.json`.

    Args:
        model: in torch; knows the answers.
        graph: its exportable form.
        step: pixels that edges of pictures are multiples of.
        sizes: file -> bytes.
        agreements: file -> differences from torch, None where there is no such file.
    """
    task, labels = next(entry for kind, entry in TASKS.items() if isinstance(model, kind))
    inputs = {}
    for name in graph.input_names:
        second = "_2" if name.endswith("_2") else ""
        edges = [f"{step}*{axis}{second}" for axis in ("rows", "columns")]
        if name.startswith("pixel_values"):
            inputs[name] = {"type": "float32", "shape": ["pictures", 3, *edges]}
        elif name.startswith("pixel_mask"):
            inputs[name] = {"type": "bool", "shape": ["pictures", *edges]}
        else:
            shape = ["texts"] if name == "pair_image_index" else ["texts", "length"]
            inputs[name] = {"type": "int64", "shape": shape}
    labels = tuple(model.config.answers) if task == "vqa" else labels
    return {
        "task": task,
        "pictures": graph.pictures,
        "inputs": inputs,
        "longest_text": model.config.max_position_embeddings,
        "outputs": {name: {"type": "float32", "shape": ["texts", len(labels)]} for name in OUTPUTS},
        "probabilities_are": "sigmoid" if task == "vqa" else "softmax",
        "labels": list(labels),
        "largest_difference": {name: asdict(found) for name, found in agreements.items() if found is not None},
        "tolerance": TOLERANCE,
        "bytes": dict(sizes),
        "versions": _versions(),
    }


def write_settings(processor: SohoProcessor, folder: Path) -> None:
    """Write the tokenizer, which cuts and pads by itself, and what happens to pictures, as plain JSON.

    Raises:
        SohoError: the tokenizer is a slow one, which no other program reads.
    """
    fast = getattr(processor.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise SohoError("the tokenizer of this model has no fast form (tokenizer.json); convert it with transformers")
    tokenizer = Tokenizer.from_str(fast.to_str())  # a copy: settings of the original must not change
    tokenizer.enable_truncation(processor.text_length)
    tokenizer.enable_padding(pad_id=processor.tokenizer.pad_token_id, pad_token=processor.tokenizer.pad_token)
    tokenizer.save(str(folder / TOKENIZER))
    settings = {name: getattr(processor.image_processor, name) for name in PICTURE_SETTINGS}
    write_json(folder / PREPROCESSING, {**settings, "text_length": processor.text_length})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file for people and programs."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
