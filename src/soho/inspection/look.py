"""What `soho dictionary` and `soho attention` do: load a model, look, write pictures and pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soho.data.picture_list import PictureList
from soho.data.sources import Source
from soho.errors import SohoError
from soho.inspection.attention import WordMaps, word_maps
from soho.inspection.attention_page import headline, write_word_maps
from soho.inspection.dictionary_study import captions_among, check_order, study_dictionary, write_dictionary
from soho.pipelines import SohoPipeline, open_picture
from soho.pipelines.abilities import ability_for


def look_at_dictionary(
    model: Path,
    images: Sequence[Path],
    out: Path,
    sources: Sequence[Source] | None = None,
    trust_remote_code: bool = False,
    device: str = "cpu",
    **options: Any,
) -> list[str]:
    """Write `dictionary.png` and `dictionary.html` of a model folder over pictures.

    Args:
        model: a model folder with a visual dictionary.
        images: folders, zip files and files.
        out: where to write; it is made.
        sources: data with captions of the pictures, or None.
        trust_remote_code: let the folder's own CNN code run.
        device: where the model computes.
        **options: see `study_dictionary`.

    Returns:
        What to tell the user.

    Raises:
        SohoError: anything that was asked for is not there, or the model has no dictionary.
    """
    check_order(options.get("order", "random"))
    pictures = PictureList(images)
    captions, remarks = (None, []) if sources is None else captions_among(pictures, sources)
    pipeline = SohoPipeline.from_pretrained(model, trust_remote_code, device)
    study = study_dictionary(pipeline, pictures.refs, captions, **options)
    written = write_dictionary(study, out, facts=str(model))
    return [*study.lines(), *remarks, *map(str, written)]


def look_at_words(
    model: Path,
    images: Sequence[Path],
    text: str | None,
    question: str | None,
    words: Sequence[str] | None,
    out: Path,
    trust_remote_code: bool = False,
    device: str = "cpu",
    task: str | None = None,
    **options: Any,
) -> list[str]:
    """Write `attention.png` and `attention.html` of a model folder, a picture (or two) and a text.

    Args:
        model: a model folder of any task.
        images: the picture, or the left and the right one.
        text: what is read against it, or None where `question` is given.
        question: the same, for a question-answering model only.
        words: words of the text; None: all.
        out: where to write; it is made.
        trust_remote_code: let the folder's own CNN code run.
        device: where the model computes.
        task: whose output is followed, where the folder holds several heads; None: the only one that fits.
        **options: see `word_maps`.

    Returns:
        What to tell the user.

    Raises:
        SohoError: not exactly one of text and question, several heads that fit, or see `word_maps`.
    """
    read = text if question is None else question
    if read is None or (text is not None and question is not None):
        raise SohoError("give either TEXT or --question, what is to be read against the picture")
    pipeline = SohoPipeline.from_pretrained(model, trust_remote_code, device, task)
    if question is not None:
        if "answer" not in [ability.verb for ability in pipeline.abilities]:
            what = str(model) if task is None else f"the head for {task}"
            raise SohoError(f"{what} does not answer questions; give the text without --question")
        pipeline = pipeline.head("answer")
    elif pipeline.heads:
        pipeline = pipeline.head(ability_for(pipeline.abilities, len(images) > 1).verb)
    pictures = [open_picture(image) for image in images]
    second = pictures[1] if len(pictures) > 1 else None
    maps = word_maps(pipeline, pictures[0], read, words or None, second=second, **options)
    written = write_word_maps(maps, pictures, read, out)
    return [headline(maps), *_table(maps), *maps.notes, *map(str, written)]


def _table(maps: WordMaps) -> list[str]:
    """Return a line per word: its share of attention to each picture."""
    sides = [maps] if maps.second is None else [maps, maps.second]
    lines = []
    for number, word in enumerate(maps.words):
        shares = " and ".join(f"{side.attention[number].sum():.0%}" for side in sides)
        cut = any(piece.startswith("##") for piece in maps.pieces[number])
        pieces = f" ({' '.join(maps.pieces[number])})" if cut else ""
        lines.append(f"{word}{pieces}: {shares} of its attention goes to the picture{'s' if len(sides) > 1 else ''}")
    return lines
