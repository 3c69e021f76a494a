"""The commands `soho card`, `soho push` and `soho join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soho.sharing.card import write_card
from soho.sharing.hub import push_folder
from soho.sharing.joining import join_heads


def add_sharing(app: typer.Typer) -> None:
    """Register the commands with the `soho` command."""
    for command in (card, push, join):
        app.command()(command)


def card(
    folder: Annotated[Path, typer.Argument(help="A model folder, for instance runs/demo/vqa/model.")],
    license: Annotated[
        str | None, typer.Option(help="Of the weights, as the hub calls it: apache-2.0, cc-by-4.0, ...")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a card that was changed by hand.")] = False,
) -> None:
    """Write the model card (README.md) of a model folder from what the folder knows of itself; see docs/share.md."""
    print(write_card(folder, license=license, overwrite=overwrite))


def push(
    folder: Annotated[Path, typer.Argument(help="A model folder, for instance runs/demo/vqa/model.")],
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload SOHO model",
) -> None:
    """Upload a model folder to the Hugging Face hub: weights, configuration, processor, model card."""
    print(*push_folder(folder, repo_id, private=private, message=message).lines(), sep="\n")


def join(
    folders: Annotated[list[Path], typer.Argument(help="Model folders with one head each.")],
    out: Annotated[Path, typer.Option(help="A new model folder.", show_default=False)],
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folders' own CNN code run.")] = False,
) -> None:
    """Put the heads of several folders on one trunk into one folder; the trunks must be the same to the last bit."""
    names = join_heads(folders, out, trust_remote_code)
    print(f"model: {out} ({', '.join(names)})")
