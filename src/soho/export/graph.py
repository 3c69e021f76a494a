"""A trained model as one function of plain tensors, in a form whose graph holds for every number and size of inputs.

The models are left as they are: a copy gets the parts of `soho.export.parts`, and the classes here call its verbs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from soho.errors import SohoError
from soho.export.parts import Codes, ColumnLinear, WholeCells
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_entailment import SohoForVisualEntailment
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.models.released.modeling_released import SohoReleasedModel


class OneTextAPair(nn.Module):
    """What all exported models share: every text is read against one picture, which goes through the CNN once.

    Args:
        model: a trained model in float32; it is not changed.

    Attributes:
        pictures: how many stacks of pictures the model reads.
        input_names: names of the arguments of `forward`, in order.
    """

    pictures = 1

    def __init__(self, model: SohoPreTrainedModel) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        trunk: Any = self.model.trunk
        trunk.visual_encoder.memory = None
        if trunk.visual_dictionary is not None:
            released = isinstance(trunk, SohoReleasedModel)
            trunk.visual_dictionary = Codes(trunk.visual_dictionary.codes, zero_padding=not released)
        for name, part in list(self.model.named_modules()):
            if type(part) is nn.Linear:
                self.model.set_submodule(name, ColumnLinear(part))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of `forward`."""
        second = ("pixel_values_2", "pixel_mask_2") if self.pictures == 2 else ()
        return ("pixel_values", "pixel_mask", *second, "input_ids", "attention_mask", "pair_image_index")

    def read(
        self, pixel_values: Tensor, pixel_mask: Tensor, text: Tensor, text_mask: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the [CLS] states (T, C), the placed visual tokens (B, N, C) and their mask (B, N)."""
        trunk = self.model.trunk
        with WholeCells():
            image = trunk.encode_image(pixel_values, pixel_mask)
        visual = trunk.place(image.tokens, image.position)
        hidden, _, _ = trunk.fuse(text, text_mask, visual[rows], image.mask[rows], cls_only=True)
        return hidden[:, 0], visual, image.mask


class MatchGraph(OneTextAPair):
    """Does each text describe its picture? Class 1 = match."""

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        pair_image_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, both (T, 2); see `SohoForImageTextRetrieval`.

        Args:
            pixel_values: (B, 3, H, W) float32.
            pixel_mask: (B, H, W) bool.
            input_ids: (T, L) int64.
            attention_mask: (T, L) int64.
            pair_image_index: (T,) int64, the picture that each text is read against.
        """
        model = self.model
        text = model.soho.encode_text(input_ids, attention_mask)
        cls, visual, mask = self.read(pixel_values, pixel_mask, text, attention_mask, pair_image_index)
        logits = model.match_head(cls)
        if model.match_contrast is not None:
            images, texts = model.image_vectors(visual, mask), model.text_vectors(text, attention_mask)
            similarities = model.contrast.scale() * (images[pair_image_index] * texts).sum(-1)
            logits = model.match_contrast(logits, similarities)
        return logits, logits.softmax(-1)


class ClassGraph(OneTextAPair):
    """Question answering (sigmoid) and visual entailment (softmax): a head on [CLS]."""

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        pair_image_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities (T, classes); for the arguments see `MatchGraph`."""
        text = self.model.soho.encode_text(input_ids, attention_mask)
        cls, _, _ = self.read(pixel_values, pixel_mask, text, attention_mask, pair_image_index)
        if isinstance(self.model, SohoForQuestionAnswering):
            logits = self.model.answer_head(cls)
            return logits, logits.sigmoid()
        logits = self.model.entailment_head(cls)
        return logits, logits.softmax(-1)


class TwoPictureGraph(OneTextAPair):
    """Is each sentence true of its two pictures? Class 1 = true."""

    pictures = 2

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        pixel_values_2: Tensor,
        pixel_mask_2: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        pair_image_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities (T, 2); `pair_image_index` counts in both stacks of pictures."""
        text = self.model.soho.encode_text(input_ids, attention_mask)
        left, _, _ = self.read(pixel_values, pixel_mask, text, attention_mask, pair_image_index)
        right, _, _ = self.read(pixel_values_2, pixel_mask_2, text, attention_mask, pair_image_index)
        logits = self.model.reasoning_head(torch.cat((left, right), dim=-1))
        return logits, logits.softmax(-1)


GRAPHS: dict[type[SohoPreTrainedModel], type[OneTextAPair]] = {
    SohoForImageTextRetrieval: MatchGraph,
    SohoForQuestionAnswering: ClassGraph,
    SohoForVisualEntailment: ClassGraph,
    SohoForVisualReasoning: TwoPictureGraph,
}


def graph_of(model: SohoPreTrainedModel) -> OneTextAPair:
    """Return the exportable form of a task model.

    Raises:
        SohoError: a model without a task head, or one that keeps the release's defect in the padding mask.
    """
    if getattr(model.config, "mask_width_defect", False):
        raise SohoError("a model with mask_width_defect cannot be exported; convert the released weights without it")
    for kind, graph in GRAPHS.items():
        if isinstance(model, kind):
            return graph(model)
    known = ", ".join(kind.__name__ for kind in GRAPHS)
    raise SohoError(f"a {type(model).__name__} cannot be exported; expected one of {known}")
