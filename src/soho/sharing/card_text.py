"""The words of the model card. What is not known is said to be unknown; nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from soho.sharing.card_figures import data_words, figures_section
from soho.sharing.facts import file_of
from soho.sharing.folder import FolderView

# License identifiers that say nothing.
_UNSTATED = "unknown"


class TaskWords(NamedTuple):
    """How the card speaks of a task.

    Attributes:
        title: its name.
        tag: for the hub.
        pipeline_tag: the hub's name for the task, where it has one.
        does: what the model does, a sentence.
        usage: a line of Python with the object `model`.
    """

    title: str
    tag: str
    pipeline_tag: str | None
    does: str
    usage: str


_MATCH = 'model.match("kitchen.jpg", ["a kitchen with a window", "two dogs"])  # one probability a text'
TASKS: dict[str, TaskWords] = {
    "pretraining": TaskWords(
        "Vision-language pre-training",
        "pretraining",
        None,
        "It was pre-trained on captioned pictures (masked words, masked picture codes, matching) and is meant as the "
        "start of fine-tuning. It can also score how well a text describes a picture.",
        _MATCH,
    ),
    "retrieval": TaskWords(
        "Image-text retrieval",
        "image-text-retrieval",
        None,
        "It scores how well a text describes a picture, and so ranks pictures by texts and texts by pictures.",
        _MATCH,
    ),
    "vqa": TaskWords(
        "Visual question answering",
        "visual-question-answering",
        "visual-question-answering",
        "It answers a question about a picture with one of a fixed list of answers.",
        'model.answer("kitchen.jpg", "how many chairs are there?")  # answers with probabilities',
    ),
    "nlvr2": TaskWords(
        "Visual reasoning about two pictures",
        "visual-reasoning",
        None,
        "It says whether a sentence is true of two pictures.",
        'model.compare("left.jpg", "right.jpg", "both show a dog")  # true and false, with probabilities',
    ),
    "snli_ve": TaskWords(
        "Visual entailment",
        "visual-entailment",
        None,
        "It says whether a picture entails a sentence, contradicts it, or leaves it open.",
        'model.entails("kitchen.jpg", "somebody is cooking")  # three judgements with probabilities',
    ),
}


def words_of(task: str) -> TaskWords:
    """Return the words for a recipe's `task`; for one that is no part of this package what its name says."""
    own = f"It was trained for `{task}`, a task that is no part of `soho-vlp`; its code must be at hand."
    return TASKS.get(task) or TaskWords(task.partition(":")[2] or task, "own-task", None, own, "")


def body(view: FolderView, license: str) -> str:
    """Return the card below its header.

    Args:
        view: what the folder says of itself.
        license: of the weights, as the header names it.
    """
    known = [words_of(run["task"]) for run in view.runs]
    known = known or [TASKS[ability.task] for ability in view.abilities]
    parts = [f"# SOHO: {' + '.join(words.title.lower() for words in known) or 'trunk without task head'}"]
    parts.append(
        "A model that reads a whole picture and a text together, without object detector and boxes, after *Seeing Out "
        "of tHe bOx: End-to-End Pre-training for Vision-Language Representation Learning* (Huang et al., CVPR 2021). "
        "Trained with `soho-vlp`, a from-scratch implementation of the paper; these are not the authors' weights."
    )
    if "Released" in type(view.config).__name__:
        parts[-1] = parts[-1].split(" Trained with")[0] + (
            " It has the wiring of the code that the authors released in 2021, run by `soho-vlp`; whether weights of "
            "that release are in it, this folder does not say."
        )
    parts += ["## What it does", *(words.does for words in known)]
    parts += ["## How to use it", _usage(view, known)]
    several = len(view.runs) > 1
    for run in view.runs:
        title = f": {words_of(run['task']).title.lower()}" if several else ""
        parts += [f"## Data{title}", _data(run), f"## Figures{title}", figures_section(run)]
        parts += [f"## Training{title}", _training(run)]
    if not view.runs:
        parts += ["## Data, figures, training", "Unknown: the folder says nothing of how these weights were made."]
    parts += ["## Limits", _limits(view), "## Licence", _license(license)]
    return "\n\n".join(parts) + "\n"


def _usage(view: FolderView, known: Sequence[TaskWords]) -> str:
    trust = ""
    if view.config.backbone_factory and not view.config.backbone_factory.startswith("soho."):
        trust = ", trust_remote_code=True"
    lines = [words.usage for words in known if view.abilities and words.usage]
    if not lines:
        return "It has no task head: name the folder as `model.start` of a recipe."
    code = "\n".join(["import soho", "", f'model = soho.load("FOLDER OR HUB ID"{trust})', *dict.fromkeys(lines)])
    remark = f"\n\nIts CNN is built by `{view.config.backbone_factory}`, code that must be at hand." if trust else ""
    return f"```python\n{code}\n```{remark}"


def _data(run: Mapping[str, Any]) -> str:
    recipe = run["recipe"]["data"]
    lines = ["Trained on:", "", *_sources(recipe["train"]), "", _counts(run["data"])]
    if run["data"].get("broken"):
        lines.append(f"{run['data']['broken']:,} pictures could not be decoded and were skipped.")
    if recipe.get("exclude"):
        lines.append(f"Left out: the photographs of {data_words(recipe['exclude'])}.")
    lines.append("A form is the layout of the files; they need not be the published data set of that name.")
    before, start = run.get("start"), run["recipe"]["model"].get("start")
    if before is None and start and start not in run["hub_starts"]:
        lines += ["", f"On what its start, `{start}`, was trained is unknown."]
    while before is not None:
        title = words_of(before["task"]).title.lower()
        steps = f"{before['training']['steps']:,} optimizer steps of {title}"
        lines += ["", f"Before that, its start was trained ({steps}) on:", "", *_sources(before["sources"])]
        lines += ["", _counts(before["data"])]
        before = before["start"]
    return "\n".join(lines)


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for source in sources:
        split = f", split {source['split']}" if source.get("split") else ""
        limit = f", the first {source['limit']:,} examples" if source.get("limit") else ""
        name = f"{source['name']}: " if source.get("name") else ""
        lines.append(f"- {name}`{file_of(source)}` in the form `{source['format']}`{split}{limit}")
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    """Return the counts that are known; of the records of somebody's own task only their number is."""
    known = ", ".join(f"{counts[name]:,} {name}" for name in ("pictures", "texts") if name in counts)
    examples = f"{counts['examples']:,} examples" if "examples" in counts else ""
    return f"{': '.join(filter(None, (examples, known))) or 'How many examples is unknown'}."


def _training(run: Mapping[str, Any]) -> str:
    recipe, done, made = run["recipe"], run["training"], run["versions"]
    parts = {key: recipe["model"].get(key) for key in ("text", "backbone", "backbone_factory")}
    start = ", ".join(f"{key} `{value}`" for key, value in parts.items() if value) or "random weights"
    if recipe["model"].get("start"):
        start = f"`{recipe['model']['start']}`"
    commit = f", commit {made['git_commit']}" if made.get("git_commit") else ""
    lines = [
        f"Start: {start}. {done['steps']:,} optimizer steps, {done['epochs']:.4g} epochs, {done['images']:,} pictures "
        f"seen, {done['seconds'] / 60:.1f} minutes in training steps on {made['device']} x {made['world_size']}, seed "
        f"{recipe['seed']}.",
        f"soho-vlp {made['soho']}{commit}, torch {made['torch']}, transformers {made['transformers']}, Python "
        f"{made['python']}; started {made['started']}.",
    ]
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    details = f"<details>\n<summary>The whole recipe</summary>\n\n```yaml\n{text}```\n\n</details>"
    return "\n\n".join([*lines, details])


def _limits(view: FolderView) -> str:
    size = view.processor.get("image_processor", view.processor)
    lines = []
    if {"shorter_edge", "longer_edge"} <= size.keys():
        lines.append(
            f"It sees a picture at {size['shorter_edge']} pixels of the shorter edge, {size['longer_edge']} of the "
            "longer one at most; small things may be gone."
        )
    if "text_length" in view.processor:
        lines.append(f"It reads {view.processor['text_length']} tokens of a text, [CLS] and [SEP] included.")
    if view.config.answers:
        lines.append(f"It knows {len(view.config.answers):,} answers (config.json) and always gives some of them.")
    for run in view.runs:
        if run["recipe"]["data"]["image_blind"]:
            lines.append("It never saw a picture: all were grey. It is a text-only baseline and nothing else.")
    lines += [
        "What it makes of pictures and languages unlike those of its training data is unknown.",
        "No study of bias, of safety or of misuse is known for it.",
        "Probabilities are those of the training objective; whether they are calibrated is unknown.",
    ]
    if view.runs:
        lines.append("The figures are of one run with one seed.")
    return "\n".join(f"- {line}" for line in lines)


def _license(license: str) -> str:
    weights = f"The weights: {license}."
    if license == _UNSTATED:
        weights = "The weights: not stated by whoever trained them."
    return f"{weights} The code, `soho-vlp`: Apache-2.0. The training data have terms of their own, not checked here."
