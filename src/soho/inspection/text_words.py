"""Which tokens of a text belong to which word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from soho.errors import SohoError
from soho.processing.processing_soho import SohoProcessor

# Hyphens and apostrophes inside a word do not end it.
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True)
class TextWord:
    """A word, or several in a row, as the model reads it.

    Attributes:
        word: as it was asked for, or as it stands in the text.
        rows: places of its tokens in the sequence, `[CLS]` = 0.
        pieces: its tokens.
    """

    word: str
    rows: tuple[int, ...]
    pieces: tuple[str, ...]


def words_in(text: str) -> list[str]:
    """Return the words of a text in order, as they stand in it."""
    return _WORD.findall(text)


def text_words(processor: SohoProcessor, text: str, wanted: Sequence[str] | None = None) -> list[TextWord]:
    """Find words in a text and their tokens in the sequence.

    Args:
        processor: whose tokenizer reads the text.
        text: the text.
        wanted: words, or several in a row ("red ball"), in any case; each stands for all its occurrences. None: every
            word of the text as it comes, each occurrence by itself.

    Returns:
        One per word, in the order of `wanted` or of the text. Words beyond the model's text length are left out
        where none was asked for.

    Raises:
        SohoError: a word does not occur in the text, or lies beyond what the model reads; the text has no word.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    if not spans:
        raise SohoError(f"the text {text!r} has no word to look from")
    tokens = processor.tokenizer(
        text,
        padding=False,
        truncation=True,
        max_length=processor.text_length,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    pieces = processor.tokenizer.convert_ids_to_tokens(tokens["input_ids"])
    offsets = tokens["offset_mapping"]

    def found(word: str, places: Sequence[tuple[int, int]]) -> TextWord:
        # Special tokens have empty places and so never overlap.
        rows = [
            row
            for row, (begin, end) in enumerate(offsets)
            if begin < end and any(begin < last and end > first for first, last in places)
        ]
        return TextWord(word, tuple(rows), tuple(pieces[row] for row in rows))

    if wanted is None:
        words = [found(text[first:last], [(first, last)]) for first, last in spans]
        words = [word for word in words if word.rows]
        if not words:
            raise SohoError(f"the tokenizer reads no word of the text {text!r}")
        return words
    result = []
    for word in wanted:
        pattern = r"\s+".join(re.escape(part) for part in word.split())
        places = [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]
        if not pattern or not places:
            listed = ", ".join(dict.fromkeys(text[first:last] for first, last in spans))
            raise SohoError(f"the word {word!r} does not occur in the text {text!r}; its words are {listed}")
        one = found(word, places)
        if not one.rows:
            raise SohoError(
                f"the word {word!r} stands beyond the {processor.text_length} tokens that the model reads of the text"
            )
        result.append(one)
    return result
