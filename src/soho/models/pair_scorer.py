"""Scoring every picture of a block with every text of it, at the least cost."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from soho.models.contrast import reads_alone
from soho.models.fusion import FusionLayer, FusionTransformer
from soho.models.modeling_retrieval import SohoForImageTextRetrieval

# Puts something of the texts (b, L, ...) beside something of the pictures (a, N, ...): (P, L + N, ...).
Join = Callable[[Tensor, Tensor], Tensor]


class GridScorer(nn.Module):
    """The retrieval model as the pair-scoring engine uses it: all a x b pairs of a pictures and b texts, or some.

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
            logits = self._logits(text, text_mask, visual, visual_mask, _join)
            if self.model.match_contrast is not None:
                similarities = self._similarities(text, text_mask, visual, visual_mask)
                logits = self.model.match_contrast(logits, similarities.flatten())
        return (logits[:, 1] - logits[:, 0]).unflatten(0, (len(visual), len(text)))

    def score_chosen(
        self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor, images: Tensor, texts: Tensor
    ) -> Tensor:
        """Return the log-odds (P,) of some of the pairs that `score_grid` scores, at the same cost a pair.

        Args:
            text: (b, L, C) embedded texts.
            text_mask: (b, L) bool.
            visual: (a, N, C) placed visual tokens.
            visual_mask: (a, N) bool.
            images: (P,) which picture.
            texts: (P,) which text.
        """

        def join(left: Tensor, right: Tensor) -> Tensor:
            return torch.cat((left[texts], right[images]), dim=1)

        with torch.autocast(text.device.type, enabled=False):
            logits = self._logits(text, text_mask, visual, visual_mask, join)
            if self.model.match_contrast is not None:
                similarities = self._similarities(text, text_mask, visual, visual_mask)
                logits = self.model.match_contrast(logits, similarities[images, texts])
        return logits[:, 1] - logits[:, 0]

    def image_vectors(self, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the contrastive unit vectors (a, C) of placed visual tokens (a, N, C).

        Raises:
            SohoError: the model was trained without the contrastive objective.
        """
        head = self.model.contrast
        with torch.autocast(visual.device.type, enabled=False):
            return head.image_vectors(self._alone(visual, visual_mask).to(head.image.weight.dtype), visual_mask)

    def text_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return the contrastive unit vectors (b, C) of embedded texts (b, L, C).

        Raises:
            SohoError: the model was trained without the contrastive objective.
        """
        head = self.model.contrast
        with torch.autocast(text.device.type, enabled=False):
            return head.text_vectors(self._alone(text, text_mask).to(head.text.weight.dtype), text_mask)

    def _alone(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return what the contrastive head averages of one side; see `SohoModel.contrastive_states`."""
        if not reads_alone(self.model.config):
            return tokens
        states, _, _ = self.fusion(tokens.to(self.dtype), mask)
        return states

    def _similarities(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the contrastive similarities (a, b)."""
        vectors = self.image_vectors(visual, visual_mask), self.text_vectors(text, text_mask)
        return self.model.contrast.scaled(*vectors)

    def _logits(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor, join: Join) -> Tensor:
        """Return what the match head (P, 2) makes of the joined pairs."""
        hidden = self._fuse(text.to(self.dtype), text_mask, visual.to(self.dtype), visual_mask, join)
        logits: Tensor = self.model.match_head(hidden.to(self.model.match_head.weight.dtype))
        return logits.float()

    def _fuse(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor, join: Join) -> Tensor:
        """Return the [CLS] states (P, C) of the joined pairs."""
        first, *others = (layer for layer in self.fusion.layers[self.fusion.start :] if isinstance(layer, FusionLayer))
        mask = join(text_mask, visual_mask)
        key, value = (join(project(text), project(visual)) for project in (first.key, first.value))
        if others:
            states, query = join(text, visual), join(first.query(text), first.query(visual))
        else:  # a single layer is also the last one: [CLS] alone
            cls, nothing = text[:, :1], visual[:, :0]
            states, query = join(cls, nothing), join(first.query(cls), nothing)
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
