"""A region-based pipeline as in section 4.5: detector, 100 boxes, then the same Transformer over 116 tokens.

The detector is bottom-up attention's: ResNet-101 up to stride 16, region proposals (3 x 3 convolution, 12 anchors a
cell, the best 6,000, suppression at 0.7, 300 kept), RoI features of 14 x 14 cells through the last stage of the CNN,
scores for 1,600 classes and background, suppression at 0.3 for each class, the 100 boxes of the best score in a class.
It gets what our side gets: the same type, channels-last, batch norms folded, compiled where ours is. Weights are
random: they decide which boxes survive, hardly how much work there is; the numbers of boxes are in the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import nms, regions
from benchmarks.timing import Clock
from soho.models import SohoConfig
from soho.models.fast import Compiled, FastReport
from soho.models.folding import folded
from soho.models.fusion import FusionTransformer, TextEmbedding
from soho.models.heads import mlp_head
from soho.models.visual_encoder import build_backbone


@dataclass(frozen=True)
class RegionSizes:
    """How much there is of everything.

    Attributes:
        candidates: anchors that go into the suppression of proposals.
        proposals: at most this many come out of it.
        classes: without background.
        boxes: that the Transformer reads.
    """

    candidates: int = 6000
    proposals: int = 300
    classes: int = 1600
    boxes: int = 100


class Trunk(nn.Module):
    """The CNN up to stride 16, and the two maps of the proposal network on it."""

    def __init__(self, backbone: Any, channels: int) -> None:
        super().__init__()
        self.embedder, self.stages = backbone.embedder, nn.Sequential(*backbone.encoder.stages[:3])
        self.shared = nn.Conv2d(channels, 512, 3, padding=1)
        self.objectness = nn.Conv2d(512, regions.ANCHORS, 1)
        self.deltas = nn.Conv2d(512, 4 * regions.ANCHORS, 1)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 3, H, W) to features (B, C, h, w), objectness (B, 12, h, w) and deltas (B, 48, h, w)."""
        maps = self.stages(self.embedder(pixel_values))
        hidden = F.relu(self.shared(maps))
        return maps, self.objectness(hidden), self.deltas(hidden)


class RegionHead(nn.Module):
    """The last stage of the CNN on RoI features, averaged, and class scores."""

    def __init__(self, stage: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.stage, self.classifier = stage, nn.Linear(channels, classes + 1)

    def forward(self, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, C, 14, 14) to features (R, C') and probabilities (R, classes + 1), background first."""
        features = self.stage(cuts).mean(dim=(2, 3))
        return features, self.classifier(features).float().softmax(-1)


class RegionPipeline(nn.Module):
    """Answers questions about pictures by way of regions.

    Args:
        config: sizes of CNN, Transformer and answer head, as for our side.
        sizes: of the detector.
        dtype: of the weights.
        compiled: compile trunk, region head and Transformer.

    Attributes:
        counts: of the last picture: proposals, boxes kept in some class, boxes read by the Transformer.
        report: in which settings it runs.
    """

    def __init__(self, config: SohoConfig, sizes: RegionSizes, dtype: torch.dtype, compiled: bool) -> None:
        super().__init__()
        backbone: Any
        backbone, channels = build_backbone(config)
        backbone, norms = folded(backbone)
        self.report = FastReport(dtype, norms)
        self.sizes, self.dtype = sizes, dtype
        self.counts = {"proposals": 0, "kept in some class": 0, "read": 0}
        self.trunk: Any = Trunk(backbone, backbone.config.hidden_sizes[2])
        self.head: Any = RegionHead(backbone.encoder.stages[3], channels, sizes.classes)
        self.feature_map, self.feature_norm = nn.Linear(channels, config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.place_map, self.place_norm = nn.Linear(5, config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.embeddings, self.answer_head = (
            TextEmbedding(config),
            mlp_head(config, config.hidden_size, len(config.answers)),
        )
        self.fusion: nn.Module = FusionTransformer(config)
        starting: list[Any] = [self.trunk.shared, self.trunk.objectness, self.trunk.deltas, self.head.classifier]
        for layer in starting:
            nn.init.normal_(layer.weight, std=0.01)  # as detectors start
            nn.init.zeros_(layer.bias)
        self.eval().requires_grad_(False).to(dtype)
        detector: list[Any] = [self.trunk, self.head]
        for part in detector:
            part.to(memory_format=torch.channels_last)
        if compiled:
            self.report.compiled = True
            self.trunk, self.head = (Compiled(part, self.report) for part in detector)
            self.fusion = Compiled(self.fusion, self.report)

    def answer(self, batch: dict[str, Tensor], clock: Clock, by_class: bool) -> Tensor:
        """Return answer logits (B, A); laps are cnn, proposals, regions, suppression, fusion, head.

        Args:
            batch: `pixel_values` (B, 3, H, W), `input_ids` and `attention_mask` (B, L).
            clock: takes the time of the parts.
            by_class: suppress class after class, as the original does; False: all classes in step.
        """
        pixels = batch["pixel_values"].to(self.dtype, memory_format=torch.channels_last)
        height, width = pixels.shape[-2:]
        maps, objectness, deltas = self.trunk(pixels)
        clock.lap("cnn")
        proposals = [self.propose(o, d, height, width) for o, d in zip(objectness, deltas)]
        clock.lap("proposals")
        found = [self.head(regions.roi_align(one[None], boxes)) for one, boxes in zip(maps, proposals)]
        clock.lap("regions")
        chosen = [self.choose(boxes, scores, by_class) for boxes, (_, scores) in zip(proposals, found)]
        clock.lap("suppression")
        visual = [
            self.embed(features[rows], boxes[rows], height, width)
            for (features, _), boxes, rows in zip(found, proposals, chosen)
        ]
        visual_mask = torch.stack([torch.arange(self.sizes.boxes, device=pixels.device) < len(one) for one in visual])
        padded = [F.pad(one, (0, 0, 0, self.sizes.boxes - len(one))) for one in visual]
        states = torch.cat((self.embeddings(batch["input_ids"]), torch.stack(padded)), dim=1)
        mask = torch.cat((batch["attention_mask"].bool(), visual_mask), dim=1)
        hidden = self.fusion(states, mask, cls_only=True)[0]
        clock.lap("fusion")
        logits: Tensor = self.answer_head(hidden[:, 0]).float()
        clock.lap("head")
        return logits

    def propose(self, objectness: Tensor, deltas: Tensor, height: int, width: int) -> Tensor:
        """Return proposals (R, 4) of a picture, from (12, h, w) and (48, h, w)."""
        rows, columns = objectness.shape[1:]
        scores = objectness.permute(1, 2, 0).reshape(-1).float()
        best = scores.topk(min(self.sizes.candidates, len(scores)))
        moves = deltas.permute(1, 2, 0).reshape(-1, 4)[best.indices].float()
        boxes = regions.moved(regions.anchors(rows, columns, scores.device)[best.indices], moves, height, width)
        kept = nms.suppress(boxes.cpu().contiguous().numpy(), best.values.cpu().numpy(), 0.7, self.sizes.proposals)
        self.counts["proposals"] = len(kept)
        return boxes[torch.from_numpy(kept.copy()).to(boxes.device)]

    def choose(self, boxes: Tensor, scores: Tensor, by_class: bool) -> Tensor:
        """Return the rows of the boxes (R, 4) that the Transformer reads, by their scores (R, classes + 1)."""
        best = (nms.best_by_class if by_class else nms.best_batched)(boxes, scores[:, 1:], 0.3)
        rows = best.topk(min(self.sizes.boxes, len(best))).indices
        self.counts["kept in some class"], self.counts["read"] = int((best > 0).sum()), len(rows)
        return rows

    def embed(self, features: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
        """Return visual tokens (R, C) of region features (R, C') and boxes (R, 4)."""
        place = boxes / torch.tensor([width, height, width, height], device=boxes.device)
        area = (place[:, 2:] - place[:, :2]).prod(dim=1, keepdim=True)
        place = torch.cat((place, area), dim=1).to(features.dtype)
        return (self.feature_norm(self.feature_map(features)) + self.place_norm(self.place_map(place))) / 2
