"""Text embedding and fusion Transformer: BERT's parts (post-layer-norm), over [text ; visual] (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from soho.models.configuration_soho import SohoConfig
from soho.models.dropout import Dropout
from soho.models.dropout import dropout as drop


class TextEmbedding(nn.Module):
    """BERT's text embedding: word + learned position + token type 0, layer norm, dropout."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, words: Tensor | None = None) -> Tensor:
        """Embed token ids (T, L), whose word vectors (T, L, C) may be given; returns (T, L, C)."""
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.word_embeddings(input_ids) if words is None else words
        total = words + self.position_embeddings(position)
        return self.dropout(self.norm(total + self.token_type_embeddings.weight[0]))


# bfloat16 numbers in a vector register. torch's softmax takes 3 to 9 times as long on rows of any other length.
SOFTMAX_WIDTH = 32


class FusionLayer(GradientCheckpointingLayer):
    """One post-layer-norm Transformer layer."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (P, heads, S, C / heads)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        cls_only: bool = False,
        output_attentions: bool = False,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            hidden: (P, S, C).
            mask: (P, S) bool, True at positions that may be attended to.
            cls_only: compute only the row of [CLS]; every position is still attended to.
            output_attentions: also return the attention weights.
            places: (P, Q) positions whose rows are computed, likewise; None: all of them.

        Returns:
            (P, S, C), or (P, 1, C) with `cls_only`, or (P, Q, C) with `places`; and weights (P, heads, as many, S) or
            None.
        """
        rows = hidden[:, :1] if cls_only else hidden
        if places is not None:
            rows = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        query, key, value = self.query(rows), self.key(hidden), self.value(hidden)
        return self.read(rows, query, key, value, mask, output_attentions)

    def read(
        self, rows: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run everything behind the projections.

        Args:
            rows: (P, Q, C) the states that are updated.
            query: (P, Q, C) projections of `rows`.
            key: (P, S, C) projections of all states.
            value: (P, S, C) likewise.
            mask: (P, S) bool.
            output_attentions: also return the attention weights.

        Returns:
            (P, Q, C), and (P, heads, Q, S) weights or None.
        """
        query, key, value = self._split(query), self._split(key), self._split(value)
        dropout = self.attention_dropout if self.training else 0.0
        weights: Tensor | None = None
        if output_attentions or rows.device.type == "cpu":
            mixed, weights = plain_attention(query, key, value, mask, dropout)
        else:
            keys = mask[:, None, None, :]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=dropout)
        mixed = mixed.transpose(1, 2).flatten(2)
        hidden = self.attention_norm(rows + self.dropout(self.attention_output(mixed)))
        inner = self.output(F.gelu(self.intermediate(hidden)))
        return self.output_norm(hidden + self.dropout(inner)), weights if output_attentions else None


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """Attend with two batched matrix products.

    torch's fused attention is slow on CPUs where gradients flow through it (docs/performance.md: 2 to 6 times as slow
    at the lengths of this model).

    Args:
        query: (P, heads, Q, D).
        key: (P, heads, S, D).
        value: (P, heads, S, D).
        mask: (P, S) bool, True at positions that may be attended to; at least one in every row.
        dropout: on the attention weights.

    Returns:
        (P, heads, Q, D) and the weights (P, heads, Q, S) before dropout. In float32 the former is computed from the
        very tensor that is returned, so that `torch.autograd.grad` of a score by the weights is there.
    """
    pairs, heads, _, length = *query.shape[:3], key.shape[2]
    spare = -length % SOFTMAX_WIDTH if query.dtype == torch.bfloat16 else 0
    if spare:
        key, value, mask = F.pad(key, (0, 0, 0, spare)), F.pad(value, (0, 0, 0, spare)), F.pad(mask, (0, spare))
    # Far below any real score; its exponential is zero in every precision.
    bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, -1e4)
    bias = bias.repeat_interleave(heads, dim=0).unsqueeze(1)  # (P * heads, 1, S)
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    weights = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5).softmax(-1)
    weights = weights.unflatten(0, (pairs, heads))
    mixed = torch.bmm((drop(weights, dropout) if dropout else weights).flatten(0, 1), value)
    return mixed.unflatten(0, (pairs, heads)), weights[..., :length] if spare else weights


def not_empty(mask: Tensor) -> Tensor:
    """Let a row without any valid token attend to all of it: attention over nothing is not a number on every device.

    Only fillers have such rows, and nothing reads them.
    """
    return mask | ~mask.any(dim=1, keepdim=True)


class FusionTransformer(nn.Module):
    """The multi-layer Transformer that reads text and visual tokens as one sequence.

    With `config.fusion_start` = s > 0 its first s layers read the text alone (`read_text`).
    """

    def __init__(self, config: SohoConfig) -> None:
        super().__init__()
        self.start = config.fusion_start
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(config.num_hidden_layers))

    def read_text(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the layers that come before the picture over embedded texts (T, L, C), mask (T, L); returns (T, L, C)."""
        if self.start:
            mask = not_empty(mask.bool())
        for layer in self.layers[: self.start]:
            hidden, _ = layer(hidden, mask)
        return hidden

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        cls_only: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        places: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Fuse (P, S, C) tokens under a (P, S) bool mask in the layers from `config.fusion_start` on.

        `cls_only` spares the last layer everything but the [CLS] row: all that a classification task reads. With
        `places` (P, Q) it computes the rows at these positions alone, in their order.

        Returns:
            The last hidden state, all hidden states (what goes in first) or None, all attention weights or None.
        """
        states, attentions = [hidden], []
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers[self.start :], start=self.start):
            is_last = number == last
            hidden, weights = layer(hidden, mask, cls_only and is_last, output_attentions, places if is_last else None)
            states.append(hidden)
            if weights is not None:
                attentions.append(weights)
        return hidden, tuple(states) if output_hidden_states else None, tuple(attentions) or None
