"""Optional image-text contrastive objective (off = the paper): a light head on each side, before fusion.

Fusion learns slowly which words go with which cells, because nothing in it starts aligned. Two linear maps over pooled
features are aligned within minutes and hand the encoder and the word embeddings on to fusion in a shared state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soho.models.configuration_soho import SohoConfig
from soho.models.losses import SumAndCount


def reads_alone(config: SohoConfig) -> bool:
    """Say whether the fusing layers read each side alone before the head averages it (`config.itc_pooling`)."""
    return config.itc_pooling == "fusion"


class ContrastHead(nn.Module):
    """Maps pooled visual and pooled text states to one sphere; `SohoModel.contrastive_states` says which states.

    As a dual encoder it takes the picture's summary token and the text as it leaves the layers before fusion, and both
    maps start as the identity: with all of a sentence encoder's layers before fusion the text's side begins as that
    encoder, and the summary learns to meet it.
    """

    def __init__(self, config: SohoConfig) -> None:
        super().__init__()
        self.image = nn.Linear(config.hidden_size, config.hidden_size)
        self.text = nn.Linear(config.hidden_size, config.hidden_size)
        self.dual_encoder = config.itc_pooling == "dual_encoder"
        self.log_scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start at the usual inverse temperature 1 / 0.07."""
        nn.init.constant_(self.log_scale, math.log(1 / 0.07))
        if self.dual_encoder:
            for side in (self.image, self.text):
                nn.init.eye_(side.weight)
                nn.init.zeros_(side.bias)

    def forward(self, features: Tensor, mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return scaled cosine similarities (B, T).

        Args:
            features: (B, N, C) visual states.
            mask: (B, N) bool.
            text: (T, L, C) text states.
            text_mask: (T, L) 1 at tokens.
        """
        return self.scaled(self.image_vectors(features, mask), self.text_vectors(text, text_mask))

    def scaled(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return scaled similarities (B, T) of unit vectors (B, C) and (T, C)."""
        return self.scale() * images @ texts.t()

    def scale(self) -> Tensor:
        """Return the inverse temperature ()."""
        return self.log_scale.exp().clamp(max=100.0)

    def image_vectors(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors (B, C) of visual states (B, N, C)."""
        pooled = features[:, 0] if self.dual_encoder else masked_mean(features, mask)
        return F.normalize(self.image(pooled.to(self.image.weight.dtype)).float(), dim=-1)

    def text_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return unit vectors (T, C) of text states (T, L, C)."""
        return F.normalize(self.text(masked_mean(text, text_mask).to(self.text.weight.dtype)).float(), dim=-1)


class ContrastShare(nn.Module):
    """Adds the contrastive similarity, as it is scaled, to the log-odds of a match that fusion finds.

    Fusion learns to tell aligned pairs from unaligned ones that were drawn in proportion to the exponential of that
    similarity (`hard_negatives`). Its log-odds are then what the similarity leaves open, and the odds among all pairs
    are the product of both: their logarithms add up with weight one. Learned is only the point where the sum says
    nothing for or against a match; both come without gradient, each has a loss of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.neutral = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start at 5: about a third of the usual range of a scaled similarity."""
        nn.init.constant_(self.neutral, 5.0)

    def forward(self, logits: Tensor, similarities: Tensor) -> Tensor:
        """Return logits (P, 2) with the similarities (P,) added to class 1."""
        extra = similarities.detach().float() - self.neutral
        return torch.stack((logits[:, 0], logits[:, 1] + extra), dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average (M, S, C) over the places where (M, S) is true; zero where none is."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def contrastive_loss(similarities: Tensor, image_of_text: Tensor, ignored: Tensor | None = None) -> SumAndCount:
    """Cross-entropy of finding the picture of every text, and every text of a picture, in the batch; half each.

    Args:
        similarities: (B, T), each text's own picture among the rows.
        image_of_text: (T,) row of the picture a text belongs to.
        ignored: (B, T) bool, pairs that are neither positive nor negative (the same photograph under another id).

    Returns:
        Sum () over texts and their number ().
    """
    count = torch.tensor(float(len(image_of_text)), device=similarities.device)
    if len(image_of_text) == 0:
        return similarities.sum() * 0.0, count
    texts = torch.arange(len(image_of_text), device=similarities.device)
    own = torch.zeros_like(similarities, dtype=torch.bool)
    own[image_of_text, texts] = True
    if ignored is not None:
        similarities = similarities.masked_fill(ignored & ~own, float("-inf"))
    to_image = similarities.log_softmax(0)[image_of_text, texts]
    # Other texts of the same picture are no negatives: each positive competes with foreign texts only.
    same_picture = image_of_text.unsqueeze(0) == torch.arange(len(similarities), device=similarities.device).unsqueeze(
        1
    )
    foreign = similarities.masked_fill(same_picture, float("-inf")).logsumexp(1)  # (B,)
    positive = similarities[image_of_text, texts]
    to_text = positive - torch.logaddexp(positive, foreign[image_of_text])
    return -0.5 * (to_image + to_text).sum(), count
