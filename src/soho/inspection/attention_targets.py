"""Which output of a model a gradient is of: the match, an answer or a class, as log-odds."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from soho.errors import SohoError
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES, SohoForVisualEntailment
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.pipelines import SohoPipeline


def outputs(pipeline: SohoPipeline, cls: Sequence[Tensor]) -> tuple[list[str], Tensor, Tensor]:
    """Return names, logits (A,) and probabilities (A,) of what a model can say.

    Args:
        pipeline: a model of any task.
        cls: (1, C) fused [CLS] of each picture.
    """
    model = pipeline.model
    if isinstance(model, SohoForQuestionAnswering):
        logits = model.answer_head(cls[0])[0].float()
        return list(model.config.answers), logits, logits.detach().sigmoid()
    if isinstance(model, SohoForVisualReasoning):
        names, logits = ["false", "true"], model.reasoning_head(torch.cat(list(cls), dim=-1))[0].float()
    elif isinstance(model, SohoForVisualEntailment):
        names, logits = list(ENTAILMENT_CLASSES), model.entailment_head(cls[0])[0].float()
    elif isinstance(model, SohoForImageTextRetrieval):
        names, logits = ["no match", "match"], model.match_head(cls[0])[0].float()
    else:
        raise SohoError(f"a {type(model).__name__} has no output to follow; expected a model of one of the tasks")
    return names, logits, logits.detach().softmax(0)


def choose_target(names: Sequence[str], shares: Tensor, target: str | None) -> int:
    """Return the place of the output to follow; see `word_maps`.

    Raises:
        SohoError: the model has no such output.
    """
    if target is None:
        return names.index("match") if "match" in names else int(shares.argmax())
    if target not in names:
        near = difflib.get_close_matches(target, names, n=3)
        some = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(names[:10])}"
        raise SohoError(
            f"the model has no output {target!r}; {some}" + (", ..." if not near and len(names) > 10 else "")
        )
    return names.index(target)


def log_odds(logits: Tensor, number: int, one_of_many: bool) -> Tensor:
    """Return the log-odds () of one output (A,): its logit, less what all others have where only one can be right."""
    if not one_of_many:
        return logits[number]
    others = torch.cat((logits[:number], logits[number + 1 :]))
    return logits[number] - others.logsumexp(0)
