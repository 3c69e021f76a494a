"""Scoring every picture of a block with every text of it, at the least cost."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from soho.models.fusion import FusionLayer, FusionTransformer
from soho.models.modeling_retrieval import SohoForImageTextRetrieval


class GridScorer(nn.Module):
    """The retrieval model as the pair-scoring engine uses it: all a x b pairs of a pictures and b texts.

    What does not depend on the partner is computed once a side: the first layer's queries, keys and values. The last
    layer computes only the [CLS] row. In bfloat16 the Transformer is copied in that type, which spares the casts of
    autocast; pictures and texts are embedded by the model itself.

    Args:
        model: the trained model; it is not changed.
        dtype: arithmetic of the Transformer.
    """

    def __init__(self, model: SohoForImageTextRetrieval, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        own = next(model.soho.fusion.parameters()).dtype == dtype
        self.fusion: FusionTransformer = model.soho.fusion if own else copy.deepcopy(model.soho.fusion).to(dtype)

    def image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return placed visual tokens (B, N, C) and their mask (B, N)."""
        return self.model.image_tokens(pixel_values, pixel_mask)

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedded text tokens (T, L, C) and their mask (T, L)."""
        return self.model.text_tokens(input_ids, attention_mask)

    def pair_flops(self, text_tokens: int, visual_tokens: int) -> float:
        """Return the multiply-adds times two of one pair."""
        return self.model.pair_flops(text_tokens, visual_tokens)

    def score_pairs(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the log-odds (P,) of pairs, text i with picture i."""
        return self.model.score_pairs(text, text_mask, visual, visual_mask)

    def score_grid(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the log-odds (a, b) that picture i and text j match.

        Args:
            text: (b, L, C) embedded texts.
            text_mask: (b, L) bool.
            visual: (a, N, C) placed visual tokens.
            visual_mask: (a, N) bool.
        """
        with torch.autocast(text.device.type, enabled=False):
            hidden = self._fuse(text.to(self.dtype), text_mask, visual.to(self.dtype), visual_mask)
            logits = self.model.match_head(hidden.to(self.model.match_head.weight.dtype)).float()
            if self.model.match_contrast is not None:
                logits = self.model.match_contrast(logits, self._similarities(text, text_mask, visual, visual_mask))
        return (logits[:, 1] - logits[:, 0]).unflatten(0, (len(visual), len(text)))

    def _similarities(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the contrastive similarities (a * b,), pictures outer."""
        head = self.model.contrast_head
        assert head is not None
        if self.model.config.itc_pooling == "fusion":
            visual, _, _ = self.fusion(visual.to(self.dtype), visual_mask)
            text, _, _ = self.fusion(text.to(self.dtype), text_mask)
        weight = head.text.weight.dtype
        images = head.image_vectors(visual.to(weight), visual_mask)
        return head.scaled(images, head.text_vectors(text.to(weight), text_mask)).flatten()

    def _fuse(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the [CLS] states (a * b, C), pictures outer."""
        first, *others = (layer for layer in self.fusion.layers if isinstance(layer, FusionLayer))
        mask = _join(text_mask, visual_mask)
        key, value = (_join(project(text), project(visual)) for project in (first.key, first.value))
        if others:
            states, query = _join(text, visual), _join(first.query(text), first.query(visual))
        else:  # a single layer is also the last one: [CLS] alone
            cls = text[:, :1]
            states, query = (part.repeat(len(visual), 1, 1) for part in (cls, first.query(cls)))
        hidden, _ = first.read(states, query, key, value, mask)
        for number, layer in enumerate(others, start=1):
            hidden, _ = layer(hidden, mask, cls_only=number == len(others))
        return hidden[:, 0]


def _join(text: Tensor, visual: Tensor) -> Tensor:
    """Pair every picture with every text: (b, L, ...) and (a, N, ...) -> (a * b, L + N, ...), pictures outer."""
    a, b = len(visual), len(text)
    left = text.unsqueeze(0).expand(a, *text.shape)
    right = visual.unsqueeze(1).expand(a, b, *visual.shape[1:])
    return torch.cat((left, right), dim=2).flatten(0, 1)
