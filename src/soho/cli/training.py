"""The commands that take a recipe to a model and its figures: pretrain, finetune, evaluate and what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from soho.cli.base import Overrides, RecipePath, app, check_split, shown, speaks
from soho.errors import SohoError

submit_app = typer.Typer(help="Write files for the servers that hold back the answers.", no_args_is_help=True)
app.add_typer(submit_app, name="submit")


def _train(path: Path, overrides: list[str] | None, pretraining: bool) -> None:
    from soho.runs import command_of, train
    from soho.training.recipe import load_recipe

    recipe = load_recipe(path, overrides or [])
    command = command_of(recipe)
    if (command == "pretrain") != pretraining:
        raise SohoError(f"{path} has task: {recipe.task}; run it with `soho {command}`")
    run = train(recipe)
    if speaks():
        Console().print(f"model: {run.model_folder}")


@app.command()
def pretrain(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Pre-train with MLM, MVM and ITM on captioned pictures.

    Continues by itself where an earlier run of the same recipe stopped. Writes checkpoints, `log.jsonl`,
    TensorBoard files, the resolved recipe and versions, and at the end `OUTPUT/model`.
    """
    _train(recipe, overrides, pretraining=True)


@app.command()
def finetune(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Fine-tune for retrieval or question answering, NLVR2 or SNLI-VE.

    From a pre-trained model or from nothing; continues by itself where an earlier run of the same recipe stopped.
    """
    _train(recipe, overrides, pretraining=False)


@app.command()
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    model: Annotated[Path | None, typer.Option(help="A model folder; default: the run's own, else the start.")] = None,
) -> None:
    """Measure a trained model, or zero-shot the one the recipe starts from, and print the figures.

    With `evaluation.baselines=true` (vqa, nlvr2, snli_ve) the most frequent answer and a model trained on grey pictures
    stand beside them; the latter is trained first, in `OUTPUT/blind`, where that is not done yet.
    """
    from soho.runs import evaluate as measure
    from soho.training.recipe import load_recipe

    check_split(split)
    figures = measure(load_recipe(recipe, overrides or []), split, model)
    if speaks():
        _print_figures(f"{recipe.stem}: {split}", figures)


@app.command()
def recompute(
    scores: Annotated[Path, typer.Argument(help="A folder of pair scores, for instance OUTPUT/scores-test.")],
    folds: Annotated[int | None, typer.Option(min=2, help="Also the mean over n folds; 5 for COCO 1K.")] = None,
    exact: Annotated[
        Path | None,
        typer.Option(help="A folder with exact scores: also what a shortlist in SCORES keeps of their top ten."),
    ] = None,
) -> None:
    """Compute the retrieval figures again from the score matrix that `soho evaluate` left; needs no model.

    For a shortlist name its own folder, for instance OUTPUT/scores-test/shortlist-32.
    """
    from soho.evaluation.recompute import recompute as figures_of

    _print_figures(str(scores), figures_of(scores, folds, exact))


def _print_figures(title: str, figures: Mapping[str, float]) -> None:
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, shown(value))
    Console().print(table)


@app.command("recipe")
def describe() -> None:
    """Explain every key of a recipe, with its type and default."""
    from soho.training.recipe import describe_recipe

    print(describe_recipe())


@submit_app.command("vqa")
def submit_vqa(
    recipe: RecipePath,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    model: Annotated[Path | None, typer.Option(help="A model folder; default: the run's own, else the start.")] = None,
    out: Annotated[Path | None, typer.Option(help="The server file to write.", show_default=False)] = None,
    check: Annotated[
        Path | None, typer.Option(help="Only check this file against the questions; no model.", show_default=False)
    ] = None,
) -> None:
    """Write the VQA server's file (test-dev, test-std) and check it: every question once, answers are strings.

    The source of the split needs its questions file and pictures; annotations may be left out.
    """
    from soho.evaluation.submission import check_submission
    from soho.runs import asked_questions, submit_answers
    from soho.training.recipe import load_recipe

    check_split(split)
    if (out is None) == (check is None):
        raise SohoError("give either --out FILE.json, to write a file, or --check FILE.json, to check one")
    settings = load_recipe(recipe, overrides or [])
    if check is not None:
        number = check_submission(check, asked_questions(settings, split))
        print(f"{check}: valid, {number:,} answers, every question of data.{split} once")
        return
    assert out is not None
    number = submit_answers(settings, split, out, model)
    if speaks():
        print(f"{out}: {number:,} answers, every question of data.{split} once")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demonstration.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of the world, the weights and all draws.")] = 0,
    serial: Annotated[
        bool, typer.Option("--serial", help="One fine-tuning run after the other, not two at once.")
    ] = False,
) -> None:
    """Run the whole road on the embedded world and write one HTML page; what `make demo` runs.

    Goes on by itself where an earlier demonstration in the same folder stopped. Needs the recipes of the source tree
    (recipes/demo) in the current folder.
    """
    from soho.demo import run_demo
    from soho.demo.pages import write_demo_report
    from soho.demo.showcase import prepare_showcase
    from soho.demo.tables import for_terminal, overview

    console = Console()
    result = run_demo(out, seed, serial=serial)
    console.rule("[bold]4/4  the page")
    page = write_demo_report(result, seed)
    prepare_showcase(out, seed)
    console.print(for_terminal(overview(result)))
    console.print(f"report: {page}")
    console.print(f"try it: soho serve {out}", highlight=False)
