"""The `soho` command itself and what its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soho.errors import SohoError

EPILOG = (
    "Recipes are YAML files; `soho recipe` explains every key, and any of them can be changed on the command line: "
    "`soho pretrain recipes/pretrain/soho_r18_3l.yaml training.batch_size=32 seed=1`. The same command runs on one "
    "process, on several GPUs (`torchrun --nproc_per_node=8 -m soho pretrain ...`) and on several nodes."
)

app = typer.Typer(
    help="SOHO: end-to-end vision-language pre-training with a visual dictionary.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.", show_default=False)
]


def speaks() -> bool:
    """Say whether this is the process that prints; under torchrun there are several."""
    from accelerate import PartialState

    return PartialState().is_main_process


def check_split(split: str) -> None:
    """Refuse what is no split.

    Raises:
        SohoError: it is none of the three.
    """
    if split not in ("train", "validation", "test"):
        raise SohoError(f"--split {split!r} is not known; expected train, validation or test")


def shown(value: float) -> str:
    """Return a figure to four digits, a count (214,354 questions) in full."""
    return f"{value:,.0f}" if value >= 1000 and float(value).is_integer() else f"{value:.4g}"
