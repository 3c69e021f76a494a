"""The commands that use a trained model: ask, search, look inside, serve, export, pass on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soho.cli.base import Overrides, app, check_split, shown
from soho.errors import SohoError
from soho.sharing.commands import add_sharing

if TYPE_CHECKING:
    from soho.data.sources import Source


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

    check_split(split)
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
            print(f"{name}: float32 {shown(exact)}, int8 {shown(rounded)}")


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
    top: Annotated[int | None, typer.Option(min=1, help="Pictures for each text. Default: 10.")] = None,
    rerank: Annotated[
        int | None, typer.Option(min=0, help="Candidates that fusion reads; 0 = vectors alone. Default: 50.")
    ] = None,
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
    task: Annotated[
        str | None, typer.Option(help="Of a folder with several heads: retrieval, vqa, nlvr2 or snli_ve.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder's own CNN code run.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Show which cells of a picture the words of a text attend to, and which of it speaks for the model's output."""
    from soho.inspection.look import look_at_words

    pictures = [image] if second is None else [image, second]
    options: dict[str, Any] = {"task": task, "target": target, "layer": layer, "rollout": rollout}
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
