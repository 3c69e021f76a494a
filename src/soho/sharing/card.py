"""The model card: README.md of a model folder, with the header that the Hugging Face hub reads.

A card is rewritten only while it is as we wrote it: its last line holds a hash of what stands above. Once somebody has
changed a word, it is theirs.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from soho.errors import SohoError
from soho.sharing.card_figures import FIGURES, data_words, figure_names
from soho.sharing.card_text import body, words_of
from soho.sharing.folder import FolderView, view_folder

CARD_NAME = "README.md"
UNKNOWN = "unknown"  # what the hub calls a licence that nobody has stated
_MARK = re.compile(r"\n<!-- written by soho; sha256 of the lines above: ([0-9a-f]{64}) -->\n\Z")


def write_card(folder: Path, license: str | None = None, overwrite: bool = False) -> str:
    """Write the model card of a folder, or write it anew where it is still as we wrote it.

    Args:
        folder: a model folder.
        license: of the weights, an identifier that the hub knows (apache-2.0, cc-by-4.0, ...); None keeps what the
            card says, "unknown" at first.
        overwrite: replace a card that somebody else wrote or changed.

    Returns:
        A sentence about what was done.

    Raises:
        SohoError: the folder holds no SOHO model, or has a card that is not ours.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise SohoError(f"license={license!r} is no identifier of the hub; expected one like apache-2.0 or cc-by-4.0")
    view, path = view_folder(folder), folder / CARD_NAME
    before = _text_of(path) if path.exists() else None
    if before is not None and not is_ours(before) and not overwrite:
        raise SohoError(f"{path} was written or changed by somebody else and stays as it is (--overwrite replaces it)")
    chosen = license or (_license_of(before) if before is not None and is_ours(before) else None) or UNKNOWN
    path.write_text(_marked(card_of(view, chosen)), encoding="utf-8")
    return f"model card: {path}"


def refresh_card(folder: Path) -> str:
    """Write the card as `write_card` does, or leave one that is not ours and say so."""
    path = folder / CARD_NAME
    if path.exists() and not is_ours(_text_of(path)):
        return f"{path} was changed by hand and stays as it is; `soho card {folder} --overwrite` writes it anew"
    return write_card(folder)


def is_ours(text: str) -> bool:
    """Say whether a card is exactly as `write_card` left it."""
    mark = _MARK.search(text)
    return mark is not None and _hash(text[: mark.start()]) == mark.group(1)


def card_of(view: FolderView, license: str) -> str:
    """Return the card of a folder, without our mark.

    Args:
        view: what the folder says of itself.
        license: of the weights.
    """
    runs = view.runs
    names = [run["task"] for run in runs] or [ability.task for ability in view.abilities]
    tags = ["soho", "vision-language", *(words_of(name).tag for name in names)]
    pipeline_tags = {words_of(name).pipeline_tag for name in names} - {None}
    header: dict[str, Any] = {
        "license": license,
        "library_name": "soho-vlp",
        "tags": list(dict.fromkeys(tags)),
        "base_model": sorted({start for run in runs for start in run["hub_starts"]}) or None,
        "pipeline_tag": pipeline_tags.pop() if len(pipeline_tags) == 1 and len(names) == 1 else None,
    }
    results = [result for run in runs for result in _results(run)]
    if results:
        header |= {"model_name": view.title, "eval_results": results}
    card = ModelCard(f"---\n{ModelCardData(**header).to_yaml()}\n---\n\n{body(view, license)}")
    return str(card)


def _results(run: dict[str, Any]) -> list[EvalResult]:
    """Return a run's main figures in the form of the hub's model index."""
    found = []
    for split, measured in run["measured"].items():
        sources = measured["sources"]
        for name in figure_names(run["task"], measured["figures"]):
            metric = FIGURES[name]
            found.append(
                EvalResult(
                    task_type=words_of(run["task"]).pipeline_tag or words_of(run["task"]).tag,
                    task_name=words_of(run["task"]).title,
                    dataset_type=" + ".join(dict.fromkeys(source["format"] for source in sources)),
                    dataset_name=data_words(sources),
                    dataset_split=split,
                    metric_type=metric.kind,
                    metric_name=metric.title,
                    metric_value=round(measured["figures"][name], 4),
                )
            )
    return found


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")  # somebody's own card may be in any encoding


def _marked(text: str) -> str:
    text = text.rstrip("\n") + "\n"
    return f"{text}\n<!-- written by soho; sha256 of the lines above: {_hash(text)} -->\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _license_of(text: str) -> str | None:
    found: str | None = ModelCard(text, ignore_metadata_errors=True).data.get("license")
    return found
