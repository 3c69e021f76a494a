"""The order of work of the code released in 2021, on this project's classes for its wiring: same numbers, its cost.

What makes it dear, by reading that code (docs/deviations.md names the differences in wiring):

- the CNN's feature map is repeated for each caption before the 1x1 convolution, dictionary and gate;
- the dictionary computes full squared distances, makes a one-hot matrix (vectors, codes), sums features and looks codes
  up by two matrix products with it;
- masked language modelling projects all positions, visual ones too, onto the vocabulary, masked visual modelling
  compares all visual cells with all codes; both select afterwards;
- activations of CNN blocks and Transformer layers are computed a second time in the backward pass;
- texts are padded to 16 tokens; the last Transformer layer computes all positions;
- float32, channels first, eager; optimizers that walk from tensor to tensor.

Our attention kernels are used on this side too, which favours it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.subjects import padded
from soho.models import SohoForQuestionAnswering, SohoReleasedForPreTraining
from soho.models.losses import IGNORE, classification_loss
from soho.models.outputs import SohoForPreTrainingOutput, with_loss
from soho.models.released.dictionary import ReleasedDictionary
from soho.models.released.modeling_released_pretraining import choose_location, masked_cells
from soho.models.visual_dictionary import DictionaryLookup
from soho.training.optimizer_step import checkpoint_activations


class OneHotDictionary(ReleasedDictionary):
    """`ReleasedDictionary` by one-hot matrices."""

    def forward(self, features: Tensor, mask: Tensor | None = None) -> DictionaryLookup:
        """Look up (B, N, C) features, and move the codes in training; the mask is not used."""
        rows = features.flatten(0, 1)  # (B * N, C)
        flat = rows.detach()
        distances = flat.pow(2).sum(1, keepdim=True) + self.codes.pow(2).sum(1) - 2 * flat @ self.codes.t()
        indices = distances.argmin(1)
        one_hot = torch.zeros(len(flat), self.size, device=flat.device).scatter_(1, indices.unsqueeze(1), 1.0)
        if self.training:
            counts, sums = one_hot.sum(0), one_hot.t() @ flat
            self.hits += counts
            self.counts.mul_(self.momentum).add_(counts, alpha=1.0 - self.momentum)
            self.sums.mul_(self.momentum).add_(sums, alpha=1.0 - self.momentum)
            total = self.counts.sum()
            smoothed = (self.counts + self.epsilon) / (total + self.size * self.epsilon) * total
            self.codes.copy_(self.sums / smoothed.unsqueeze(1))
        chosen = one_hot @ self.codes
        straight = rows + (chosen - flat)
        return DictionaryLookup(straight.view_as(features), indices.view(features.shape[:2]))


class CheckpointedBlock(nn.Module):
    """A CNN block whose activations are computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the block."""
        if self.training and hidden.requires_grad:
            return checkpoint(self.block, hidden, use_reentrant=False)
        return self.block(hidden)


class ReleaseOrderPreTraining(SohoReleasedForPreTraining):
    """Pre-training in the released wiring and the released order of work."""

    def arrange(self) -> ReleaseOrderPreTraining:
        """Bring dictionary and checkpointing into the release's order; call once, after the weights are there."""
        trunk: Any = self.soho
        ours = trunk.visual_dictionary
        theirs = OneHotDictionary(ours.size, ours.codes.shape[1], ours.momentum, ours.epsilon)
        theirs.load_state_dict(ours.state_dict())
        trunk.visual_dictionary = theirs.to(ours.codes.device).train(ours.training)
        for stage in trunk.visual_encoder.backbone.encoder.stages:
            stage.layers = nn.Sequential(*(CheckpointedBlock(block) for block in stage.layers))
        self.train(self.training)
        checkpoint_activations(self)
        return self

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        pixel_mask: Tensor,
        attention_mask: Tensor,
        pair_image_index: Tensor,
        labels: Tensor,
        itm_labels: Tensor,
        mvm_draws: Tensor,
        **_: Any,
    ) -> SohoForPreTrainingOutput:
        """Run the three tasks on P pairs, text i with picture `pair_image_index[i]`; returns loss and its parts."""
        trunk: Any = self.soho
        text = trunk.encode_text(input_ids)
        image = trunk.encode_image(pixel_values, pixel_mask, pair_image_index)
        location, chosen = choose_location(mvm_draws, self.config.mvm_mask_probability, image.indices.shape[1])
        masked = masked_cells(image.indices, location, chosen)
        visual = self.soho.place(self.mask_vector(image.tokens, masked), image.position)
        hidden, _states, _weights = self.soho.fuse(text, attention_mask, visual, image.mask)
        length = input_ids.shape[1]
        words = self.mlm_head(hidden)[:, :length].flatten(0, 1)  # (P * L, vocabulary)
        cells = self.code_similarities(hidden[:, length:].flatten(0, 1))  # (P * N, K)
        hidden_codes = image.indices.masked_fill(~masked, IGNORE).flatten()
        total, count = classification_loss(cells, hidden_codes)
        parts = {
            "itm": classification_loss(self.match_head(hidden[:, 0]), itm_labels),
            "mlm": classification_loss(words, labels.flatten()),
            "mvm": (total / count.clamp(min=1.0), torch.ones_like(count)),
        }
        return with_loss(SohoForPreTrainingOutput(), parts, {}, None)


def padded_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a pre-training batch with texts padded to 16 tokens."""
    ids, mask = padded(batch["input_ids"], batch["attention_mask"])
    spare = ids.shape[1] - batch["labels"].shape[1]
    return {
        **batch,
        "input_ids": ids,
        "attention_mask": mask,
        "labels": F.pad(batch["labels"], (0, spare), value=IGNORE),
    }


class ReleaseOptimizers:
    """SGD for the CNN, AdamW for the rest with the release's values, one tensor after the other; clips before."""

    def __init__(self, model: SohoReleasedForPreTraining) -> None:
        cnn = {id(parameter) for parameter in model.visual_backbone().parameters()}
        free = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters = free
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.SGD([p for p in free if id(p) in cnn], lr=1e-2, momentum=0.9, weight_decay=1e-4, foreach=False),
            torch.optim.AdamW(
                [p for p in free if id(p) not in cnn], lr=1e-4, eps=1e-6, weight_decay=0.01, foreach=False
            ),
        ]

    def step(self) -> None:
        """Clip the gradients, update, forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 10.0, foreach=False)
        for optimizer in self.parts:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def release_answers(model: SohoForQuestionAnswering, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits (P, A) of a question-answering model, all positions of the last layer computed."""
    visual, mask = release_image(model, batch)
    return release_head(model, release_fusion(model, batch, visual, mask))


def release_image(model: SohoForQuestionAnswering, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return placed visual tokens (B, N, C) and their mask."""
    image = model.soho.encode_image(batch["pixel_values"], batch["pixel_mask"])
    return model.soho.place(image.tokens, image.position), image.mask


def release_fusion(model: SohoForQuestionAnswering, batch: dict[str, Tensor], visual: Tensor, mask: Tensor) -> Tensor:
    """Return the fused states (P, L + N, C)."""
    text = model.soho.encode_text(batch["input_ids"])
    hidden, _states, _weights = model.soho.fuse(text, batch["attention_mask"], visual, mask)
    return hidden


def release_head(model: SohoForQuestionAnswering, hidden: Tensor) -> Tensor:
    """Return the logits (P, A)."""
    return model.answer_head(hidden[:, 0]).float()
