r"""Say what a pre-training recipe costs on so many GPUs: micro-batches, memory, pairs per second. Needs no GPU.

    python recipes/pretrain/plan.py recipes/pretrain/soho_r101_12l.yaml --gpus 1 8 32 --tflops 312 --gigabytes 80

Counted from the model, built without weights: parameters, the work of the CNN's forward pass, what it keeps for the
backward pass. By formula: fusion layers (2 operations a weight and token, and two products with S x S scores; 34 bytes
a token and channel are kept, without attention scores, or 2 where activations are recomputed). A backward pass is
twice the work of its forward pass. Everything else is assumed and can be changed by options: the share of the peak
that is reached, the rates between GPUs, nothing overlapped. Heads, losses and the loading of pictures are left out.
With --fsdp as with `training.fsdp=true`: what is not of the CNN is shared out over the GPUs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from soho.errors import SohoError
from soho.models import SohoConfig, SohoForPreTraining
from soho.training.recipe import Recipe, load_recipe

# What the hub's models are made of, so that a plan needs no network.
BACKBONES: dict[str, dict[str, Any]] = {
    "microsoft/resnet-18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    "microsoft/resnet-50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
    "microsoft/resnet-101": {
        "layer_type": "bottleneck",
        "depths": [3, 4, 23, 3],
        "hidden_sizes": [256, 512, 1024, 2048],
    },
}
CELL = 64  # pixels of a visual token's edge, and what pictures are padded to a multiple of
BFLOAT16, FLOAT32 = 2, 4
GIGA = 1e9


@dataclass(frozen=True)
class Cost:
    """What one picture with its texts costs; counts of operations and bytes.

    Attributes:
        tokens: text and visual tokens of a pair.
        pairs: texts read against a picture.
        cnn_weights: parameters of the CNN.
        other_weights: all others.
        layers: fusion layers.
        layer_weights: parameters of one of them.
        cnn_forward: operations of the CNN for a picture.
        fusion_forward: operations of dictionary and fusion layers for a picture with all its texts.
        cnn_kept: bytes that the CNN keeps for its backward pass.
        fusion_kept: bytes that the fusion layers keep.
        recomputed: whether the fusion layers run forward twice.
    """

    tokens: int
    pairs: int
    cnn_weights: int
    other_weights: int
    layers: int
    layer_weights: int
    cnn_forward: float
    fusion_forward: float
    cnn_kept: float
    fusion_kept: float
    recomputed: bool

    def operations(self, frozen: bool) -> float:
        """Return the work of a training step for one picture; of a frozen CNN only the forward pass runs."""
        return self.cnn_forward * (1 if frozen else 3) + self.fusion_forward * (4 if self.recomputed else 3)

    @property
    def fixed_bytes(self) -> float:
        """Weights, gradients, their copies for the exchange and in bfloat16, and the optimizers' moments."""
        common = 3 * FLOAT32 + BFLOAT16
        return self.cnn_weights * (common + FLOAT32) + self.other_weights * (common + 2 * FLOAT32)

    def shared_bytes(self, gpus: int, accumulated: bool) -> float:
        """Return the same where FSDP shares all but the CNN out: parts, and what is gathered at one time.

        Gathered are everything outside the layers and two layers (one ahead), their gradients and one exchange; the
        gradients of all layers until the exchange where they are `accumulated` over micro-batches.
        """
        outside = self.other_weights - self.layers * self.layer_weights
        gradients = self.other_weights if accumulated else outside + self.layer_weights
        gathered = outside + 2 * self.layer_weights + gradients + max(outside, self.layer_weights)
        parts = self.other_weights * (4 * FLOAT32 / gpus + BFLOAT16)
        return self.cnn_weights * (4 * FLOAT32 + BFLOAT16) + parts + gathered * FLOAT32

    def exchanged_bytes(self, gpus: int, micro_batches: int, fsdp: bool) -> float:
        """Return what a GPU sends in an optimizer step.

        A ring sends every gradient twice, but for one part; half of that where it is shared out. FSDP gathers the
        weights in every micro-batch, those of layers for the backward pass once more.
        """
        each = (gpus - 1) / gpus * FLOAT32
        if not fsdp:
            return 2 * each * (self.cnn_weights + self.other_weights)
        gathered = self.other_weights + self.layers * self.layer_weights
        return each * (2 * self.cnn_weights + self.other_weights + micro_batches * gathered)


def cost_of(recipe: Recipe) -> Cost:
    """Count what one picture of a recipe costs, at the recipe's full picture size.

    Raises:
        SohoError: the recipe's CNN is not one that this script knows the form of.
    """
    model, settings = build(recipe), recipe.data
    config: SohoConfig = model.config
    height, width = (-(-edge // CELL) * CELL for edge in (settings.shorter_edge, settings.longer_edge))
    cells = (height // CELL) * (width // CELL)
    tokens, channels = settings.text_length + cells, config.hidden_size
    pairs = settings.positives_per_image + settings.negatives_per_image
    cnn = model.visual_backbone()
    forward, kept = measure_cnn(cnn, height, width)
    layer = 4 * channels * channels + 2 * channels * config.intermediate_size
    fusion = config.num_hidden_layers * (2 * tokens * layer + 4 * tokens * tokens * channels)
    whole_layer = 34 * tokens * channels
    if recipe.training.gradient_checkpointing:
        fusion_kept = (config.num_hidden_layers * 2 * tokens * channels + whole_layer) * pairs
    else:
        fusion_kept = config.num_hidden_layers * whole_layer * pairs
    weights = sum(parameter.numel() for parameter in cnn.parameters())
    return Cost(
        tokens=tokens,
        pairs=pairs,
        cnn_weights=weights,
        other_weights=sum(parameter.numel() for parameter in model.parameters()) - weights,
        layers=config.num_hidden_layers,
        layer_weights=sum(parameter.numel() for parameter in model.soho.fusion.layers[0].parameters()),
        cnn_forward=forward,
        fusion_forward=pairs * fusion + 2 * cells * config.dictionary_size * channels,
        cnn_kept=kept + 3 * height * width * FLOAT32,
        fusion_kept=fusion_kept,
        recomputed=recipe.training.gradient_checkpointing,
    )


def build(recipe: Recipe) -> Any:
    """Build the recipe's model without memory for its weights.

    Raises:
        SohoError: see `cost_of`.
    """
    section = recipe.model
    backbone = section.backbone_config or BACKBONES.get(section.backbone or "")
    if backbone is None:
        raise SohoError(
            f"the form of model.backbone={section.backbone} is not known here; known are {', '.join(BACKBONES)}, or "
            "give model.backbone_config"
        )
    fields: dict[str, Any] = {"num_hidden_layers": section.text_layers or 12, **section.config}
    with torch.device("meta"):
        return SohoForPreTraining(SohoConfig(visual_backbone={"model_type": "resnet", **backbone}, **fields))


def measure_cnn(cnn: nn.Module, height: int, width: int) -> tuple[float, float]:
    """Return (operations of a forward pass, bytes kept for the backward pass) of one picture in bfloat16."""
    cnn = cnn.to(torch.bfloat16).train()
    pixels = torch.empty(1, 3, height, width, dtype=torch.bfloat16, device="meta")
    own = {parameter.untyped_storage()._cdata for parameter in cnn.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        cnn(pixels)
    return float(counter.get_total_flops()), float(sum(storage.nbytes() for storage in kept.values()))


@dataclass(frozen=True)
class Plan:
    """How a step of so many pairs is cut up, and what it takes.

    Attributes:
        gpus: processes.
        batch_size: `training.batch_size`: pictures of a process and micro-batch.
        accumulation: `training.accumulation`.
        gigabytes: memory of a GPU.
        gigabytes_fixed: what weights, gradients and moments take of it.
        seconds: of an optimizer step while the CNN is trained.
        seconds_frozen: while it is frozen.
        pairs: of an optimizer step.
    """

    gpus: int
    batch_size: int
    accumulation: int
    gigabytes: float
    gigabytes_fixed: float
    seconds: float
    seconds_frozen: float
    pairs: int


def plan(cost: Cost, gpus: int, options: argparse.Namespace) -> Plan:
    """Cut a step of `options.pairs` pairs up for so many GPUs, with the largest micro-batch that fits.

    Raises:
        SohoError: it cannot be cut evenly, or not even one picture fits.
    """
    pictures, rest = divmod(options.pairs, cost.pairs * gpus)
    if rest or not pictures:
        raise SohoError(
            f"{options.pairs} pairs are not {cost.pairs} pairs a picture times whole pictures on {gpus} GPUs"
        )
    one = cost.cnn_kept + cost.fusion_kept
    fsdp = options.fsdp and gpus > 1

    def fixed(size: int) -> float:
        return cost.shared_bytes(gpus, accumulated=size < pictures) if fsdp else cost.fixed_bytes

    room = options.gigabytes * GIGA * options.fill - options.overhead * GIGA
    fitting = [size for size in range(1, pictures + 1) if pictures % size == 0 and size * one + fixed(size) <= room]
    if not fitting:
        raise SohoError(f"one picture needs {one / GIGA:.1f} GB beside {fixed(1) / GIGA:.1f} GB of weights")
    size = fitting[-1]
    rate = options.tflops * 1e12 * options.share
    link = options.network if gpus > options.gpus_per_node else options.link  # the slowest decides
    exchange = cost.exchanged_bytes(gpus, pictures // size, fsdp) / (link * GIGA)
    return Plan(
        gpus=gpus,
        batch_size=size,
        accumulation=pictures // size,
        gigabytes=(size * one + fixed(size)) / GIGA + options.overhead,
        gigabytes_fixed=fixed(size) / GIGA,
        seconds=pictures * cost.operations(frozen=False) / rate + exchange,
        seconds_frozen=pictures * cost.operations(frozen=True) / rate + exchange,
        pairs=options.pairs,
    )


def lines(cost: Cost, plans: Sequence[Plan], options: argparse.Namespace) -> list[str]:
    """Return what is counted, what is assumed, and a table of plans in Markdown."""
    picture = cost.cnn_kept + cost.fusion_kept
    result = [
        f"counted: CNN {cost.cnn_weights / 1e6:.1f} M weights, {cost.cnn_forward / GIGA:.0f} GFLOP a picture forward; "
        f"the rest {cost.other_weights / 1e6:.1f} M weights, {cost.fusion_forward / GIGA:.0f} GFLOP for {cost.pairs} "
        f"pairs of {cost.tokens} tokens",
        f"training: {cost.operations(False) / 1e12:.2f} TFLOP a picture, {cost.operations(True) / 1e12:.2f} while the "
        f"CNN is frozen; {picture / 1e6:,.0f} MB kept a picture; {cost.fixed_bytes / GIGA:.1f} GB of weights and "
        "moments",
        f"assumed: {options.share:.0%} of {options.tflops:g} TFLOP/s; {options.gigabytes:g} GB, of which "
        f"{options.fill:.0%} are used and {options.overhead:g} GB taken by libraries; {options.link:g} GB/s inside a "
        f"machine of {options.gpus_per_node} GPUs, {options.network:g} GB/s between machines",
        "",
        "| GPUs | batch_size | accumulation | pairs a step | GB a GPU | s a step | pairs/s | pairs/s, CNN frozen "
        "| pictures/s a GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    if options.fsdp:
        fixed = ", ".join(f"{one.gigabytes_fixed:.1f} GB on {one.gpus}" for one in plans)
        result.insert(3, f"FSDP: weights and moments take by the number of GPUs {fixed}")
    for one in plans:
        pictures = one.pairs / cost.pairs / one.gpus / one.seconds_frozen
        result.append(
            f"| {one.gpus} | {one.batch_size} | {one.accumulation} | {one.pairs:,} | {one.gigabytes:.0f} "
            f"| {one.seconds:.2f} | {one.pairs / one.seconds:,.0f} | {one.pairs / one.seconds_frozen:,.0f} "
            f"| {pictures:.0f} |"
        )
    return result


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="a pre-training recipe")
    parser.add_argument("changes", nargs="*", help="key=value changes to the recipe")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 32], help="numbers of GPUs")
    parser.add_argument("--pairs", type=int, default=4096, help="image-text pairs of an optimizer step")
    parser.add_argument("--tflops", type=float, default=312.0, help="dense bfloat16 peak of a GPU; 312 = A100")
    parser.add_argument("--share", type=float, default=0.3, help="share of the peak that training reaches")
    parser.add_argument("--gigabytes", type=float, default=80.0, help="memory of a GPU")
    parser.add_argument("--fill", type=float, default=0.85, help="share of the memory that may be used")
    parser.add_argument("--overhead", type=float, default=3.0, help="GB that CUDA, cuDNN and NCCL take")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of a machine")
    parser.add_argument("--link", type=float, default=200.0, help="GB/s between GPUs of a machine")
    parser.add_argument("--network", type=float, default=20.0, help="GB/s between machines")
    parser.add_argument("--fsdp", action="store_true", help="share weights and moments out, as training.fsdp does")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Print the plan of a recipe."""
    options = parse(arguments)
    cost = cost_of(load_recipe(options.recipe, ["data.root=.", *options.changes]))
    print("\n".join(lines(cost, [plan(cost, gpus, options) for gpus in options.gpus], options)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SohoError as error:
        sys.exit(f"plan: {error}")
