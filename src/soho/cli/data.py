"""The commands about data and checkpoints from elsewhere: data miniature, check and shard; convert released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from soho.cli.base import Overrides, RecipePath, app

data_app = typer.Typer(help="Draw the embedded world, or check data before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")
convert_app = typer.Typer(help="Turn checkpoints of other layouts into model folders.", no_args_is_help=True)
app.add_typer(convert_app, name="convert")


@data_app.command("miniature")
def miniature(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    train: Annotated[int, typer.Option(help="Training pictures.")] = 4000,
    validation: Annotated[int, typer.Option(help="Validation pictures.")] = 300,
    test: Annotated[int, typer.Option(help="Test pictures.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed draws the same world.")] = 0,
) -> None:
    """Draw the embedded world and write it as COCO, Karpathy, Visual Genome, VQA v2, NLVR2 and SNLI-VE files."""
    from soho.data.miniature import generate

    summary = generate(out, train_images=train, validation_images=validation, test_images=test, seed=seed)
    Console().print("\n".join(summary.lines()), highlight=False)


@data_app.command("check")
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Read everything a recipe names once and say what is wrong; exit code 1 where training would not be sound."""
    from soho.runs import check_data
    from soho.training.recipe import load_recipe

    report = check_data(load_recipe(recipe, overrides or []))
    for line in report.lines():
        print(line)
    if not report.sound:
        raise typer.Exit(1)


@data_app.command("shard")
def shard(
    recipe: RecipePath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; goes on where it was stopped.")],
    overrides: Overrides = None,
    shard_megabytes: Annotated[int, typer.Option(help="Bound of a tar file.")] = 256,
) -> None:
    """Write a recipe's pictures and texts as WebDataset tar shards with an index; see docs/data.md.

    Exit code 1 where more than one picture in a hundred cannot be read; the shards are written all the same.
    """
    from soho.runs import shard_data
    from soho.training.recipe import load_recipe

    written = shard_data(load_recipe(recipe, overrides or []), out, shard_megabytes)
    for section in written:
        print("\n".join(section.lines()))
    print("in a recipe, under data:")
    for section in written:
        print(f"  {section.name}: [{{format: shards, shards: {section.folder}}}]")
    if not all(section.sound for section in written):
        raise typer.Exit(1)


@convert_app.command("released")
def convert_released(
    source: Annotated[Path, typer.Argument(metavar="IN.pth", help="A checkpoint of the code released in 2021.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new model folder.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder, hub id or package:NAME/folder; the release used bert-base-uncased.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSON with the answers of a question-answering checkpoint, in index order.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Attention heads; default: the checkpoint's settings, else 64 channels each.")
    ] = None,
    mask_width_defect: Annotated[bool, typer.Option(help="Keep the release's defect in the padding mask.")] = False,
) -> None:
    """Convert released pre-training or question-answering weights; says what became of every key.

    Runs no code of the file. Leaves nothing behind if anything in it is not as expected.
    """
    from soho.conversion import REPORT_NAME
    from soho.conversion import convert_released as convert

    report = convert(
        source, out, tokenizer=tokenizer, answers=answers, heads=heads, mask_width_defect=mask_width_defect
    )
    for line in report.lines():
        if not line.startswith("used: "):
            print(line)
    print(f"model: {out} (every key: {out / REPORT_NAME})")
