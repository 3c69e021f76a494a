"""What a region detector does between its convolutions, in plain torch: anchors, boxes, RoI features."""

from __future__ import annotations

import torch
from torch import Tensor

STRIDE = 16
ANCHOR_EDGES = (64.0, 128.0, 256.0, 512.0)
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
ANCHORS = len(ANCHOR_EDGES) * len(ANCHOR_RATIOS)


def anchors(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return boxes (rows * columns * 12, 4) around the centres of a map of stride 16: x1, y1, x2, y2 in pixels."""
    shapes = [(edge / ratio**0.5, edge * ratio**0.5) for edge in ANCHOR_EDGES for ratio in ANCHOR_RATIOS]
    half = torch.tensor(shapes, device=device) / 2  # (12, 2) width, height
    y = (torch.arange(rows, device=device) + 0.5) * STRIDE
    x = (torch.arange(columns, device=device) + 0.5) * STRIDE
    centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    return torch.cat((centre - half, centre + half), dim=-1).reshape(-1, 4)


def moved(boxes: Tensor, deltas: Tensor, height: int, width: int) -> Tensor:
    """Move boxes (M, 4) by a detector's deltas (M, 4) and clip them to a picture of height x width pixels."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + 0.5 * size + deltas[:, :2] * size
    size = size * deltas[:, 2:].clamp(max=4.0).exp()
    limit = torch.tensor([width, height], device=boxes.device, dtype=boxes.dtype)
    return torch.cat(((centre - size / 2).clamp(min=0), centre + size / 2), dim=1).minimum(limit.repeat(2)).clamp(min=0)


def interpolation(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """Return what each cell of an axis weighs in each bin of an interval.

    A bin is the mean of two samples, each interpolated linearly between the centres of two cells.

    Args:
        start: (R,) in cells.
        end: (R,) in cells.
        bins: into which the interval is cut.
        cells: of the axis.

    Returns:
        (R, bins, cells), every row sums to 1.
    """
    steps = (torch.arange(2 * bins, device=start.device) + 0.5) / (2 * bins)
    place = (start[:, None] + (end - start)[:, None] * steps - 0.5).clamp(0, cells - 1)  # (R, 2 * bins)
    weight = (1 - (place[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)
    return weight.unflatten(1, (bins, 2)).mean(2)


def roi_align(maps: Tensor, boxes: Tensor, bins: int = 14, chunk: int = 64) -> Tensor:
    """Cut boxes out of a feature map and bring them to one size (RoI align, two samples a bin and axis).

    Interpolation in the plane is one along each axis, so both are matrix products, which run at the speed of all
    others; sampling from a grid has no fast kernel in bfloat16 on CPUs.

    Args:
        maps: (1, C, h, w) of stride 16.
        boxes: (R, 4) in pixels.
        bins: rows and columns of the result.
        chunk: boxes at a time, which bounds memory.

    Returns:
        (R, C, bins, bins) in channels-last layout.
    """
    height, width = maps.shape[-2:]
    table = maps[0].permute(1, 2, 0)  # (h, w, C)
    parts = []
    for some in (boxes.float() / STRIDE).split(chunk):
        down = interpolation(some[:, 1], some[:, 3], bins, height).to(maps.dtype)
        across = interpolation(some[:, 0], some[:, 2], bins, width).to(maps.dtype)
        rows = (down.flatten(0, 1) @ table.reshape(height, -1)).view(len(some), bins, width, -1)
        parts.append(across.unsqueeze(1) @ rows)  # (R', bins, bins, C)
    return torch.cat(parts).permute(0, 3, 1, 2)
