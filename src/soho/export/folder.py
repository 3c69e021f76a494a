"""What `soho export onnx` does: from a model folder to one that runs without torch, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from soho.errors import SohoError
from soho.export.graph import OneTextAPair, graph_of
from soho.export.inputs import Agreement, Answers, agreement
from soho.export.onnx_file import OnnxModel, onnx_packages, pixel_step, write_int8, write_onnx
from soho.export.settings import ABOUT, INT8, MODEL, TOLERANCE, describe, write_json, write_settings
from soho.folders import whole_folder
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.pipelines import SohoPipeline


@dataclass
class ExportReport:
    """What was written and how well it agrees.

    Attributes:
        folder: holds the files.
        sizes: name of each ONNX file -> bytes, weights beside it included.
        float32: onnxruntime against torch on random inputs.
        int8: 8 bits against torch on the same inputs; None where there is no such file.
        int8_products: how many products are computed in 8 bits.
    """

    folder: Path
    sizes: dict[str, int] = field(default_factory=dict)
    float32: Agreement | None = None
    int8: Agreement | None = None
    int8_products: int = 0

    def lines(self) -> list[str]:
        """Return the report for a console."""
        lines = [f"{name}: {size / 1e6:.1f} MB" for name, size in self.sizes.items()]
        for name, found in ((MODEL, self.float32), (INT8, self.int8)):
            if found is not None:
                lines.append(
                    f"{name} against torch, {found.cases} shapes of random inputs: largest difference of a logit "
                    f"{found.logits:.1e}, of a probability {found.probabilities:.1e}"
                )
        if self.int8 is not None:
            lines.append(f"{INT8}: {self.int8_products} products with weights in 8 bits, convolutions in float32")
        return [*lines, f"folder: {self.folder}"]


def export_onnx(
    source: Path,
    out: Path,
    *,
    int8: bool = False,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> ExportReport:
    """Write a trained model as an ONNX folder and check that onnxruntime gives what torch gives.

    Args:
        source: a model folder of any task with a head; one of pre-training scores pairs.
        out: a new folder: `model.onnx`, `tokenizer.json`, `preprocessing.json`, `soho_onnx.json`.
        int8: also write `model.int8.onnx`.
        trust_remote_code: let the model folder's own CNN code run.
        say: is told what begins.

    Returns:
        Sizes and agreement.

    Raises:
        SohoError: a package is missing, `source` is no such folder, `out` is there already, the model cannot be
            traced, or the results differ by more than `TOLERANCE`; nothing is left behind.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SohoError(f"{out} is there already; name a new folder")
    onnx_packages()
    pipeline = SohoPipeline.from_pretrained(source, trust_remote_code)
    model: Any = pipeline.model.float()
    step = pixel_step(pipeline.processor.image_processor.size_divisor)
    graph = graph_of(model)
    report = ExportReport(out)
    with whole_folder(out) as new:
        new.mkdir(parents=True)
        say("tracing the model; takes half a minute to some minutes")
        write_onnx(graph, new / MODEL, step)
        say("comparing onnxruntime with torch")
        report.float32 = _compared(model, graph, new / MODEL, step)
        if max(report.float32.logits, report.float32.probabilities) > TOLERANCE:
            raise SohoError(
                f"{source}: onnxruntime and torch differ by {report.float32.logits:.1e} in a logit and "
                f"{report.float32.probabilities:.1e} in a probability, more than {TOLERANCE:.0e}; nothing was written"
            )
        if int8:
            say("quantising")
            report.int8_products = write_int8(new / MODEL, new / INT8)
            report.int8 = _compared(model, graph, new / INT8, step)
        report.sizes = {name: _size(new, name) for name in (MODEL, INT8) if (new / name).exists()}
        write_settings(pipeline.processor, new)
        found = {MODEL: report.float32, INT8: report.int8}
        write_json(new / ABOUT, describe(model, graph, step, report.sizes, found))
    return report


def torch_answers(model: SohoPreTrainedModel) -> Answers:
    """Return a function from inputs to the logits and probabilities of a torch model."""

    def answers(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = model(**inputs).logits
        several_may_hold = isinstance(model, SohoForQuestionAnswering)
        return logits, logits.sigmoid() if several_may_hold else logits.softmax(-1)

    return answers


def _compared(model: SohoPreTrainedModel, graph: OneTextAPair, path: Path, step: int) -> Agreement:
    return agreement(torch_answers(model), OnnxModel(path), graph.input_names, step, model.config)


def _size(folder: Path, name: str) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name in (name, f"{name}.data"))
