"""What 8 bits cost: the figures of a task, measured with the float32 file and with the 8-bit file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from soho.data.images import decode
from soho.errors import SohoError
from soho.evaluation.retrieval_protocols import retrieval_figures
from soho.export.onnx_file import OnnxModel
from soho.export.settings import INT8, MODEL
from soho.models.outputs import SohoTaskOutput
from soho.pipelines import SohoPipeline
from soho.runs import OF_THE_DATA, trained_model
from soho.tasks import Processes, Task, task_class
from soho.tasks.retrieval import RetrievalTask
from soho.training.recipe import Recipe

Figures = dict[str, float]


def check_recipe(recipe: Recipe, source: Path, split: str, trust_remote_code: bool = False) -> None:
    """Look at a recipe before minutes are spent on exporting.

    Raises:
        SohoError: the recipe is of another task than the model, or names no data for the split.
    """
    wanted = task_class(recipe.task).model_class
    model = SohoPipeline.from_pretrained(source, trust_remote_code).model
    if not isinstance(model, wanted):
        raise SohoError(f"the recipe has task: {recipe.task}, but {source} holds a {type(model).__name__}")
    if not getattr(recipe.data, split):
        raise SohoError(f"the recipe names no source under data.{split}, which this command needs")
    trained_model(recipe, source)  # what the measurement loads, by the recipe's own rules of whose code may run


def cost_of_int8(recipe: Recipe, split: str, source: Path, exported: Path) -> dict[str, tuple[float, float]]:
    """Measure an exported model on the data of a recipe, in float32 and in 8 bits.

    Question answering, NLVR2 and SNLI-VE are measured as `soho evaluate` does. For retrieval all pictures are scored
    against all texts by the whole graph, without what `soho evaluate` spares (the first layer once a side, the CNN once
    a picture): use `evaluation.max_images` and `max_texts` for a small gallery.

    Args:
        recipe: names task and data.
        split: "train", "validation" or "test".
        source: the model folder that was exported.
        exported: what `export_onnx` wrote, with `int8`.

    Returns:
        Figure -> (float32, 8 bits).

    Raises:
        SohoError: see `check_recipe`; or the data are wrong.
    """
    recipe = recipe.model_copy(deep=True)
    recipe.evaluation.precision = "fp32"
    recipe.evaluation.baselines = False
    task, model = trained_model(recipe, source)
    found: list[Figures] = []
    for name in (MODEL, INT8):
        onnx = OnnxModel(exported / name)
        if isinstance(task, RetrievalTask):
            found.append(retrieval(task, onnx, split, name))
        else:
            found.append(_figures(task, model, onnx, split, name))
    return {figure: (value, found[1][figure]) for figure, value in found[0].items() if figure not in OF_THE_DATA}


def _figures(task: Task, model: Any, onnx: OnnxModel, split: str, name: str) -> Figures:
    """Return the figures that the task finds when the model's answers are those of an ONNX file."""
    with tqdm(total=len(task.examples(split)), desc=name, unit="text", dynamic_ncols=True) as bar:

        def forward(**batch: Tensor) -> SohoTaskOutput:
            logits, _ = onnx(batch)
            bar.update(len(logits))
            return SohoTaskOutput(logits=logits)  # type: ignore[arg-type]

        model.forward = forward
        try:
            return task.evaluate(model, split, Processes())
        finally:
            del model.forward


def retrieval(task: RetrievalTask, onnx: OnnxModel, split: str, name: str) -> Figures:
    """Return the recalls of a gallery whose every pair the whole graph has scored; chance levels left out.

    Raises:
        SohoError: a picture cannot be read.
    """
    pictures = task.gallery(split)
    captions, owners = task.gallery_texts(split)
    texts = task.processor(text=captions)
    scores = np.zeros((len(pictures), len(captions)), dtype=np.float32)
    chunk = task.recipe.evaluation.pair_batch
    with tqdm(total=scores.size, desc=name, unit="pair", dynamic_ncols=True) as bar:
        for row, picture in enumerate(pictures):
            inputs = dict(task.processor(images=decode(picture.image)))
            for start in range(0, len(captions), chunk):
                part = slice(start, start + chunk)
                inputs |= {key: texts[key][part] for key in ("input_ids", "attention_mask")}
                inputs["pair_image_index"] = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
                logits, _ = onnx(inputs)
                scores[row, part] = (logits[:, 1] - logits[:, 0]).numpy()
                bar.update(len(logits))
    figures = retrieval_figures(scores, owners)
    return {key: value for key, value in figures.items() if "/" not in key and key not in ("images", "texts")}
