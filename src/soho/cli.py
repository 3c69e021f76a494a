"""The `soho` command: a thin layer over `soho.runs`, `soho.data` and `soho.pipelines`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from soho.errors import SohoError
from soho.sharing.commands import add_sharing

if TYPE_CHECKING:
    from soho.data.sources import Source

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
data_app = typer.Typer(help="Draw the embedded world, or check data before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")
convert_app = typer.Typer(help="Turn checkpoints of other layouts into model folders.", no_args_is_help=True)
app.add_typer(convert_app, name="convert")
submit_app = typer.Typer(help="Write files for the servers that hold back the answers.", no_args_is_help=True)
app.add_typer(submit_app, name="submit")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.", show_default=False)
]


def _train(path: Path, overrides: list[str] | None, pretraining: bool) -> None:
    from soho.runs import command_of, train
    from soho.training.recipe import load_recipe

    recipe = load_recipe(path, overrides or [])
    command = command_of(recipe)
    if (command == "pretrain") != pretraining:
        raise SohoError(f"{path} has task: {recipe.task}; run it with `soho {command}`")
    run = train(recipe)
    if _speaks():
        Console().print(f"model: {run.model_folder}")


def _speaks() -> bool:
    """Say whether this is the process that prints; under torchrun there are several."""
    from accelerate import PartialState

    return PartialState().is_main_process


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

    _check_split(split)
    figures = measure(load_recipe(recipe, overrides or []), split, model)
    if _speaks():
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


def _check_split(split: str) -> None:
    if split not in ("train", "validation", "test"):
        raise SohoError(f"--split {split!r} is not known; expected train, validation or test")


def _print_figures(title: str, figures: Mapping[str, float]) -> None:
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, _shown(value))
    Console().print(table)


def _shown(value: float) -> str:
    """Return a figure to four digits, a count (214,354 questions) in full."""
    return f"{value:,.0f}" if value >= 1000 and float(value).is_integer() else f"{value:.4g}"


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, for instance runs/demo/vqa/model, or a hub id.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="One picture or several.")],
    text: Annotated[
        str, typer.Argument(help="A question, a text to match, a sentence or a hypothesis, as the model goes.")
    ],
    second: Annotated[
        list[Path] | None, typer.Option(help="The right picture, for a model that compares two; one for each IMAGE.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Of a folder with several heads: retrieval, vqa, nlvr2 or snli_ve.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers to a question.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Answer a question, say how well a text describes a picture, or judge a sentence about one or two pictures.

    See docs/ask.md.
    """
    from soho.pipelines.command import predict_lines

    options: dict[str, Any] = {"task": task, "top": top, "trust_remote_code": trust_remote_code, "device": device}
    print(*predict_lines(model, images, text, second, json=json, **options), sep="\n")


add_sharing(app)


@app.command("recipe")
def describe() -> None:
    """Explain every key of a recipe, with its type and default."""
    from soho.training.recipe import describe_recipe

    print(describe_recipe())


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

    _check_split(split)
    if (out is None) == (check is None):
        raise SohoError("give either --out FILE.json, to write a file, or --check FILE.json, to check one")
    settings = load_recipe(recipe, overrides or [])
    if check is not None:
        number = check_submission(check, asked_questions(settings, split))
        print(f"{check}: valid, {number:,} answers, every question of data.{split} once")
        return
    assert out is not None
    number = submit_answers(settings, split, out, model)
    if _speaks():
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


export_app = typer.Typer(help="Write trained models for other runtimes.", no_args_is_help=True)
app.add_typer(export_app, name="export")


@export_app.command("onnx")
def export_onnx(
    model: Annotated[Path, typer.Argument(help="A model folder, for instance runs/demo/vqa/model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    overrides: Overrides = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also write model.int8.onnx, products in 8 bits.")] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="Measure on its data what 8 bits cost; needs --int8.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
) -> None:
    """Write a trained model as ONNX and check that onnxruntime gives what torch gives; see docs/export.md.

    Height and width of pictures, their number, the number of texts and their length stay open.
    """
    from soho.export import export_onnx as export
    from soho.export.measurement import check_recipe, cost_of_int8
    from soho.training.recipe import load_recipe

    _check_split(split)
    if recipe is None and overrides:
        raise SohoError(f"{overrides[0]} changes a recipe, but none is named (--recipe)")
    if recipe is not None and not int8:
        raise SohoError("--recipe measures what 8 bits cost; give --int8 too")
    settings = None if recipe is None else load_recipe(recipe, overrides or [])
    if settings is not None:
        check_recipe(settings, model, split, trust_remote_code)
    for line in export(model, out, int8=int8, trust_remote_code=trust_remote_code).lines():
        print(line)
    if settings is not None:
        for name, (exact, rounded) in cost_of_int8(settings, split, model, out).items():
            print(f"{name}: float32 {_shown(exact)}, int8 {_shown(rounded)}")


@app.command()
def index(
    pictures: Annotated[Path, typer.Argument(help="A folder; JPEG, PNG and WebP files in and below it.")],
    model: Annotated[Path, typer.Option(help="A retrieval model folder, trained with model.config.itc_weight > 0.")],
    out: Annotated[Path, typer.Option(help="Folder of the index, new or to be brought up to date.")],
    dtype: Annotated[str, typer.Option(help="How picture tokens are kept: float16, bfloat16, float32.")] = "float16",
    batch_size: Annotated[int, typer.Option(help="Pictures of one shape that are encoded together.")] = 8,
    workers: Annotated[int, typer.Option(help="Threads that decode pictures.")] = 2,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file, whatever its size and time say.")] = False,
    compact: Annotated[bool, typer.Option("--compact", help="Leave nothing of dropped pictures on the disk.")] = False,
    moved: Annotated[bool, typer.Option("--moved", help="The library has moved to this folder.")] = False,
    graph: Annotated[bool, typer.Option(help="From 50,000 pictures on: a graph of neighbours (needs usearch).")] = True,
    fast: Annotated[bool, typer.Option("--fast", help="Encode in the fastest settings of the device.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
) -> None:
    """Make an index of a folder of pictures for `soho search`, or bring it up to date; goes on after a kill."""
    from soho.search.commands import update_index

    build = {"dtype": dtype, "moved": moved, "fast": fast, "device": device, "trust_remote_code": trust_remote_code}
    update = {"batch_size": batch_size, "workers": workers, "rehash": rehash, "compact": compact}
    print(*update_index(pictures, model, out, graph=graph, **build, **update), sep="\n")


@app.command()
def search(
    index: Annotated[Path, typer.Option(help="What `soho index` wrote.")],
    texts: Annotated[list[str] | None, typer.Argument(help="What the pictures show.", show_default=False)] = None,
    queries: Annotated[Path | None, typer.Option(help="A file of texts: one a line, or JSONL.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Pictures for each text.")] = 10,
    rerank: Annotated[int, typer.Option(min=0, help="Candidates that fusion reads; 0 = vectors alone.")] = 50,
    exact: Annotated[bool, typer.Option("--exact", help="Score every picture by fusion.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Instead: recall of the exact top ten by k, and times of the stages.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the pictures.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model folder, if it has moved since.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Fusion in bfloat16 where the device has it.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
) -> None:
    """Find pictures by texts: vectors choose candidates, the fusion Transformer puts them in order."""
    from soho.search.commands import search_index

    opening: dict[str, Any] = {"model": model, "fast": fast, "device": device, "trust_remote_code": trust_remote_code}
    asked: dict[str, Any] = {"top": top, "rerank": rerank, "exact": exact, "measured": measure, "json": json}
    print(*search_index(index, texts or [], queries, html=html, **asked, **opening), sep="\n")


@app.command()
def dictionary(
    model: Annotated[Path, typer.Argument(help="A model folder, for instance runs/demo/pretrain/model.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures: a folder, a .zip file, or files.")],
    out: Annotated[Path, typer.Option(help="Folder for dictionary.png and dictionary.html.", show_default=False)],
    captions: Annotated[Path | None, typer.Option(help="A JSONL file with captions of the pictures.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose data has captions of the pictures.")] = None,
    codes: Annotated[int, typer.Option(min=1, help="Codes to show.")] = 12,
    patches: Annotated[int, typer.Option(min=1, max=24, help="Patches per code, each of another picture.")] = 8,
    order: Annotated[str, typer.Option(help="random: drawn among the codes in use; use: the most used.")] = "random",
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Show which patches of pictures share a code of the visual dictionary, how the codes are used, and their words."""
    from soho.inspection.look import look_at_dictionary

    sources = _caption_sources(captions, recipe)
    options = {"codes": codes, "per_code": patches, "order": order, "seed": seed}
    for line in look_at_dictionary(model, images, out, sources, trust_remote_code, device, **options):
        print(line)


def _caption_sources(captions: Path | None, recipe: Path | None) -> list[Source] | None:
    from soho.data.sources import Source
    from soho.training.recipe import load_recipe

    if captions is not None and recipe is not None:
        raise SohoError("give either --captions FILE.jsonl or --recipe RECIPE, not both")
    if captions is not None:
        return [Source(format="jsonl", annotations=captions)]
    data = None if recipe is None else load_recipe(recipe).data
    return None if data is None else [*data.train, *data.validation, *data.test]


@app.command()
def attention(
    model: Annotated[Path, typer.Argument(help="A model folder, for instance runs/demo/retrieval/model.")],
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[Path, typer.Option(help="Folder for attention.png and attention.html.", show_default=False)],
    text: Annotated[str | None, typer.Argument(help="What is read against it.", show_default=False)] = None,
    word: Annotated[
        list[str] | None, typer.Option(help="A word of the text, or several in a row; repeatable. Default: all.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Instead of TEXT, for a question-answering model.")] = None,
    second: Annotated[Path | None, typer.Option(help="The right picture, for a model that compares two.")] = None,
    target: Annotated[
        str | None, typer.Option(help="The answer or class to follow. Default: match, or the most probable one.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Whose attention; 1 = the first. Default: the last but one.")
    ] = None,
    rollout: Annotated[bool, typer.Option("--rollout", help="Attention over all layers up to that one.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Show which cells of a picture the words of a text attend to, and which of it speaks for the model's output."""
    from soho.inspection.look import look_at_words

    pictures = [image] if second is None else [image, second]
    options = {"target": target, "layer": layer, "rollout": rollout}
    for line in look_at_words(model, pictures, text, question, word, out, trust_remote_code, device, **options):
        print(line)


@app.command()
def serve(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Model folders, one a task; or a folder of runs.")
    ],
    index: Annotated[Path | None, typer.Option(help="What `soho index` wrote.", show_default=False)] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 = any free one.")] = 7860,
    examples: Annotated[Path | None, typer.Option(help="JSON with examples; see docs/serve.md.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Answer in the fastest settings of the device.")] = False,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; more are told to come back.")] = 8,
    megabytes: Annotated[int, typer.Option(help="Of one picture's file.")] = 16,
    megapixels: Annotated[int, typer.Option(help="Of one picture.")] = 40,
    corpus: Annotated[int, typer.Option(min=0, help="Pictures of the index read for the patches of codes.")] = 200,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
) -> None:
    """Open a web page and an HTTP API over trained models: search, ask, compare, look inside."""
    from soho.serving.command import serve as run
    from soho.serving.limits import Limits, Settings

    limits = Limits(upload_bytes=megabytes * 1024**2, pixels=megapixels * 1_000_000, waiting=waiting)
    options: dict[str, Any] = {"examples": examples, "device": device, "trust_remote_code": trust_remote_code}
    run(models, index, host, port, Settings(limits, corpus, fast), **options)


def main() -> None:
    """Run the command line; bad input ends in one sentence on stderr and exit code 1."""
    try:
        app()
    except SohoError as error:
        print(f"soho: {error}", file=sys.stderr)
        sys.exit(1)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        # A folder to write into that is a file, or somebody else's.
        print(f"soho: {error.filename or error} cannot be used: {error.strerror}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
