"""What a model folder can do: which class reads which head, and the verb that asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soho.errors import SohoError
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_entailment import SohoForVisualEntailment
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning

# Which class reads which kind of folder; a pre-training folder holds the match head, so it can score pairs.
PREDICTORS: dict[str, type[SohoPreTrainedModel]] = {
    "SohoForPreTraining": SohoForImageTextRetrieval,
    "SohoReleasedForPreTraining": SohoForImageTextRetrieval,
    "SohoForImageTextRetrieval": SohoForImageTextRetrieval,
    "SohoForQuestionAnswering": SohoForQuestionAnswering,
    "SohoForVisualReasoning": SohoForVisualReasoning,
    "SohoForVisualEntailment": SohoForVisualEntailment,
}


@dataclass(frozen=True)
class Ability:
    """One thing that a model can do.

    Attributes:
        task: the recipe's `task` value that trains it.
        verb: the method of `SohoPipeline` that asks for it.
        model_class: holds its head.
        does: what such a model does, as the predicate of a sentence.
        model: what such a model is called.
        pictures: how many a text is read against.
    """

    task: str
    verb: str
    model_class: type[SohoPreTrainedModel]
    does: str
    model: str
    pictures: int = 1


ABILITIES = (
    Ability("retrieval", "match", SohoForImageTextRetrieval, "scores pairs", "a retrieval or pre-training model"),
    Ability("vqa", "answer", SohoForQuestionAnswering, "answers questions", "a question-answering model"),
    Ability(
        "nlvr2",
        "compare",
        SohoForVisualReasoning,
        "judges sentences about two pictures",
        "a visual-reasoning model",
        pictures=2,
    ),
    Ability(
        "snli_ve", "entails", SohoForVisualEntailment, "judges what a picture entails", "a visual-entailment model"
    ),
)
TASK_NAMES = tuple(ability.task for ability in ABILITIES)


def ability_of(model: SohoPreTrainedModel) -> Ability:
    """Return what a model can do.

    Raises:
        SohoError: it has no head that predicts.
    """
    for ability in ABILITIES:
        if isinstance(model, ability.model_class):
            return ability
    raise SohoError(f"a {type(model).__name__} cannot predict; expected one of {', '.join(PREDICTORS)}")


def abilities_of(architectures: Iterable[str]) -> tuple[Ability, ...]:
    """Return what a folder can do, from `architectures` of its config.json; empty where it cannot predict."""
    classes = [PREDICTORS.get(name) for name in architectures]
    found = {ability.task: ability for cls in classes for ability in ABILITIES if ability.model_class is cls}
    return tuple(found.values())


def in_words(abilities: Iterable[Ability]) -> str:
    """Return abilities as part of a sentence: "answers questions (`answer`) and scores pairs (`match`)"."""
    parts = [f"{ability.does} (`{ability.verb}`)" for ability in abilities]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def chosen_ability(task: str, offered: Iterable[Ability], owner: str) -> Ability:
    """Return the offered ability of a task.

    Args:
        task: one of `TASK_NAMES`.
        offered: what there is.
        owner: whose abilities these are, for messages.

    Raises:
        SohoError: there is no such task, or it is not offered.
    """
    if task not in TASK_NAMES:
        raise SohoError(f"there is no task {task!r} to predict; expected one of {', '.join(TASK_NAMES)}")
    offered = tuple(offered)
    for ability in offered:
        if ability.task == task:
            return ability
    names = " and ".join(ability.task for ability in offered)
    raise SohoError(f"{owner} can do {names}, not {task}")


def ability_for(offered: Sequence[Ability], two_pictures: bool, task: str | None = None) -> Ability:
    """Return what a call with one or two pictures asks of a model.

    Args:
        offered: what the model can do.
        two_pictures: a right picture is given too.
        task: which head is asked; None: the only one that reads so many pictures.

    Raises:
        SohoError: no head fits, or several do.
    """
    if task is not None:
        offered = (chosen_ability(task, offered, "this model"),)
    fitting = [ability for ability in offered if ability.pictures == 1 + two_pictures]
    if not fitting and two_pictures:
        raise SohoError(f"this model {_words(offered)} and reads one picture; leave the second one out")
    if not fitting:
        raise SohoError(f"this model {_words(offered)}; give the right picture too (--second)")
    if len(fitting) > 1:
        names = ", ".join(ability.task for ability in fitting)
        raise SohoError(f"this model {in_words(fitting)}; name the task (--task): one of {names}")
    return fitting[0]


def another_model(wanted: Ability, offered: Sequence[Ability]) -> SohoError:
    """Return the error for a verb that a model does not have."""
    if len(offered) == 1:
        return SohoError(f"this model {offered[0].does}; use `{offered[0].verb}`, or load {wanted.model}")
    return SohoError(f"this model {in_words(offered)}; for `{wanted.verb}` load {wanted.model}")


def _words(offered: Sequence[Ability]) -> str:
    return offered[0].does if len(offered) == 1 else in_words(offered)
