"""What `soho convert` does: from a checkpoint of another layout to a model folder, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from soho.errors import SohoError
from soho.folders import whole_folder
from soho.models.initialization import load_tokenizer
from soho.models.released.checkpoint import read_checkpoint
from soho.models.released.conversion import ConversionReport, config_of, from_released
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.processing.processing_soho import SohoProcessor

REPORT_NAME = "conversion_report.txt"


def released_image_processor() -> SohoImageProcessor:
    """Return the image processor of the release's settings: 600 / 1000 pixels, padded to multiples of 32."""
    # 64 pixels are one cell; the release cannot read a picture that is narrower after resizing.
    return SohoImageProcessor(shorter_edge=600, longer_edge=1000, size_divisor=32, smallest_padded_edge=64)


def convert_released(
    source: Path,
    out: Path,
    *,
    tokenizer: str | None = None,
    answers: Path | None = None,
    heads: int | None = None,
    mask_width_defect: bool = False,
) -> ConversionReport:
    """Turn a checkpoint of the 2021 release into a model folder.

    Args:
        source: the `.pth` file.
        out: a new folder; nothing is left there if anything is wrong.
        tokenizer: folder, hub id or `package:NAME/folder` of the tokenizer the weights were trained with.
        answers: JSON file with the answer vocabulary of a question-answering checkpoint, see `read_label_answers`.
        heads: attention heads, where neither the file's settings nor BERT's rule tells.
        mask_width_defect: reproduce the release's padding mask instead of the right one.

    Returns:
        What became of every key; also written to `out/conversion_report.txt`.

    Raises:
        SohoError: anything wrong with the file, in one sentence, or `out` is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SohoError(f"{out} is there already; name a new folder")
    words = load_tokenizer(tokenizer) if tokenizer is not None else None
    checkpoint = read_checkpoint(source)
    ids = {} if words is None else {"pad_token_id": words.pad_token_id, "mask_token_id": words.mask_token_id}
    config, notes = config_of(
        checkpoint,
        heads=heads,
        answers=None if answers is None else read_label_answers(answers),
        mask_width_defect=mask_width_defect,
        **ids,
    )
    if words is not None and len(words) != config.vocab_size:
        raise SohoError(
            f"the tokenizer {tokenizer!r} has {len(words)} tokens, {source} has {config.vocab_size} word embeddings; "
            "expected the tokenizer the weights were trained with"
        )
    model, report = from_released(checkpoint, config)
    report.notes += notes
    if words is None:
        report.notes.append(
            "no tokenizer was named, so the folder holds none; training and `soho predict` need one (see --tokenizer)"
        )
    with whole_folder(out) as new:
        model.save_pretrained(new)
        _save_processor(words, new)
        (new / REPORT_NAME).write_text("\n".join(report.lines()) + "\n", encoding="utf-8")
    return report


def read_label_answers(path: Path) -> list[str]:
    """Read an answer vocabulary in index order.

    Args:
        path: a JSON list of strings, or the release's question file with its entry `label2ans` (a list, or an object
            from index to answer).

    Raises:
        SohoError: the file is absent or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SohoError(f"answers {path} cannot be read: {error}") from None
    found: Any = content.get("label2ans") if isinstance(content, dict) else content
    if isinstance(found, dict) and set(found) == {str(number) for number in range(len(found))}:
        found = [found[str(number)] for number in range(len(found))]
    if not isinstance(found, list) or not found or not all(isinstance(answer, str) for answer in found):
        raise SohoError(f"answers {path} must hold a JSON list of strings in index order, or one as 'label2ans'")
    return found


def _save_processor(tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    images = released_image_processor()
    if tokenizer is None:
        images.save_pretrained(folder)
    else:
        SohoProcessor(images, tokenizer, text_length=16).save_pretrained(folder)
