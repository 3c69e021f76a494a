"""Writing an ONNX file, with every number and size of inputs left open, and its 8-bit form."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from soho.errors import SohoError
from soho.export.graph import OneTextAPair
from soho.export.inputs import Case, random_inputs
from soho.export.parts import CNN_STRIDE

OUTPUTS = ("logits", "probabilities")
# A protobuf file ends at 2 GiB; larger weights go into a file beside it.
LARGEST_FILE = 1_900_000_000
# No two edges are of one length, and no number is 1: sizes that are alike by chance would be taken for one.
EXAMPLE = Case(pictures=2, rows=3, columns=4, texts=3, length=7)


def onnx_packages() -> ModuleType:
    """Return onnxruntime, where everything that the export needs is installed.

    Raises:
        SohoError: a package is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SohoError(f"the export needs the package {error.name}: pip install 'soho-vlp[export]'") from None
    return onnxruntime


def pixel_step(size_divisor: int) -> int:
    """Return what every padded edge is a multiple of in the graph: 64 or 32 pixels.

    Raises:
        SohoError: pictures are padded to something else, so that cells of the CNN would be cut.
    """
    for step in (2 * CNN_STRIDE, CNN_STRIDE):
        if size_divisor % step == 0:
            return step
    raise SohoError(
        f"pictures of this model are padded to multiples of {size_divisor}; the export needs multiples of 32"
    )


def write_onnx(graph: OneTextAPair, path: Path, step: int) -> None:
    """Trace a model and write its graph.

    Args:
        graph: see `soho.export.graph`.
        path: the file; weights of more than 1.9 GB go to `<path>.data` beside it.
        step: pixels; height and width of pictures are multiples of it.

    Raises:
        SohoError: a package is missing, or torch cannot trace the model (a CNN of one's own may do anything).
    """
    onnx_packages()
    config = graph.model.config
    example = random_inputs(EXAMPLE, graph.input_names, step, config, seed=0)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    try:
        with _silence():
            program = torch.onnx.export(
                graph,
                tuple(example.values()),
                input_names=list(graph.input_names),
                output_names=list(OUTPUTS),
                dynamic_shapes=dynamic_shapes(graph.input_names, step, config.max_position_embeddings),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            for node in program.model.graph.all_nodes():
                node.metadata_props.clear()  # where in this machine's source files each node was made
                for value in node.outputs:
                    value.metadata_props.clear()
            program.save(str(path), external_data=weights > LARGEST_FILE)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise SohoError(f"torch cannot trace this model with dynamic shapes: {reason}") from None


def dynamic_shapes(names: tuple[str, ...], step: int, positions: int) -> dict[str, dict[int, Any]]:
    """Say which axes of the inputs may have any length, and which have the same.

    Args:
        names: see `OneTextAPair.input_names`.
        step: pixels that edges of pictures are multiples of.
        positions: tokens of a text at most.
    """
    pictures, texts = Dim("pictures", min=1, max=2**12), Dim("texts", min=1, max=2**16)
    length = Dim("length", min=1, max=positions)
    shapes: dict[str, dict[int, Any]] = {}
    for name in names:
        second = "_2" if name.endswith("_2") else ""
        smallest = 2 * CNN_STRIDE // step
        edges = [step * Dim(f"{axis}{second}", min=smallest, max=2**8) for axis in ("rows", "columns")]
        if name.startswith("pixel_values"):
            shapes[name] = {0: pictures, 2: edges[0], 3: edges[1]}
        elif name.startswith("pixel_mask"):
            shapes[name] = {0: pictures, 1: edges[0], 2: edges[1]}
        else:
            shapes[name] = {0: texts} if name == "pair_image_index" else {0: texts, 1: length}
    return shapes


def write_int8(source: Path, path: Path) -> int:
    """Write a copy of an ONNX file whose products with weights are computed in 8 bits (dynamic quantisation).

    Weights are quantised by column and to 7 bits, because processors without VNNI overflow at 8. Convolutions and
    embeddings stay in float32.

    Args:
        source: what `write_onnx` wrote.
        path: the new file.

    Returns:
        The number of products that were quantised.

    Raises:
        SohoError: a package is missing.
    """
    onnx_packages()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _silence():
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.with_name(f"{source.name}.data").exists(),
            extra_options={"MatMulConstBOnly": True},
        )
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return sum(node.op_type == "MatMulInteger" for node in nodes)


class OnnxModel:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: the file.

    Raises:
        SohoError: onnxruntime is missing.
    """

    def __init__(self, path: Path) -> None:
        runtime = onnx_packages()
        self.session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities; inputs that the graph does not know are left out."""
        feeds = {name: inputs[name].numpy() for name in self.names}
        logits, probabilities = self.session.run(list(OUTPUTS), feeds)
        return torch.from_numpy(logits), torch.from_numpy(probabilities)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back what exporter and quantiser say of their own insides."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
