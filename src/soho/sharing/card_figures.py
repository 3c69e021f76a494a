"""The figures of a model card: a table with the baselines beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from soho.sharing.facts import file_of


class FigureWords(NamedTuple):
    """How a figure is called.

    Attributes:
        title: for people.
        kind: for the hub.
    """

    title: str
    kind: str


FIGURES: dict[str, FigureWords] = {
    "accuracy": FigureWords("accuracy", "accuracy"),
    "consistency": FigureWords("consistency", "consistency"),
    **{
        f"{side}_r{k}": FigureWords(f"{words} retrieval R@{k}", f"recall_at_{k}")
        for side, words in (("tr", "text"), ("ir", "image"))
        for k in (1, 5, 10)
    },
    "mlm_accuracy": FigureWords("masked words, accuracy", "accuracy"),
    "mvm_accuracy": FigureWords("masked picture codes, accuracy", "accuracy"),
    "itm_accuracy": FigureWords("image-text matching, accuracy", "accuracy"),
}
# Prefix of a baseline's figures -> its column.
COLUMNS = {"chance": "chance", "blind": "text only"}
# Figures that are themselves a baseline -> of which figure.
MAJORITY = {"majority": "accuracy", "mvm_majority": "mvm_accuracy"}
MAJORITY_COLUMN = "most frequent"


def figure_names(task: str, figures: Mapping[str, float]) -> list[str]:
    """Return the main figures of a measurement, for the hub's index; none for pre-training."""
    return [] if task == "pretraining" else [name for name in FIGURES if name in figures]


def figures_section(run: Mapping[str, Any]) -> str:
    """Return tables of what was measured on these weights, split by split."""
    if not run["measured"]:
        return "Nothing was measured on these weights that this folder knows of (`soho evaluate` enters it here)."
    parts = []
    for split, measured in run["measured"].items():
        parts.append(f"On the {split} split ({data_words(measured['sources'])}), measured {measured['date']}:")
        parts += tables(measured["figures"])
        if measured["other_settings"]:
            settings = ", ".join(f"`{one}`" for one in measured["other_settings"])
            parts.append(f"Measured with other settings than the recipe below: {settings}.")
    return "\n\n".join(parts)


def data_words(sources: Sequence[Mapping[str, Any]]) -> str:
    """Return where data came from, in one phrase: names where the recipe gives them, else the files."""
    return ", ".join(dict.fromkeys(source.get("name") or file_of(source) for source in sources))


def tables(figures: Mapping[str, float]) -> list[str]:
    """Return a table of the main figures with baselines beside them, and one of the details, folded away.

    Args:
        figures: what `soho evaluate` found.
    """
    columns: dict[str, dict[str, float]] = {"model": {}}
    for name, value in figures.items():
        prefix, _, rest = name.partition("/")
        if name in MAJORITY:
            columns.setdefault(MAJORITY_COLUMN, {})[MAJORITY[name]] = value
        elif prefix in COLUMNS:
            columns.setdefault(COLUMNS[prefix], {})[rest] = value
        else:
            columns["model"][name] = value
    main = [name for name in columns["model"] if "/" not in name]
    details = [name for name in columns["model"] if "/" in name]
    found = [_table(main, columns)]
    if len(columns) == 1:
        found.append("No baseline was measured beside it.")
    if details:
        folded = _table(details, columns)
        found.append(f"<details>\n<summary>In detail</summary>\n\n{folded}\n\n</details>")
    return found


def _table(rows: list[str], columns: Mapping[str, Mapping[str, float]]) -> str:
    shown = [name for name, values in columns.items() if name == "model" or any(row in values for row in rows)]
    lines = [f"| | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for row in rows:
        title = FIGURES[row].title if row in FIGURES else row
        lines.append(f"| {title} | {' | '.join(_shown(columns[name].get(row)) for name in shown)} |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 and float(value).is_integer() else f"{value:.4g}"
