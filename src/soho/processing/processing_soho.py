"""Pictures and texts to model inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from soho.errors import SohoError
from soho.processing.image_processing_soho import Picture, Size, SohoImageProcessor

# Texts are measured in portions, so that half a million captions never stand in memory as encodings.
_PORTION = 4096


class SohoProcessor(ProcessorMixin):
    """An image processor and a BERT tokenizer with one length limit.

    Args:
        image_processor: turns pictures into pixels.
        tokenizer: any BERT-style tokenizer (`BertTokenizer`, or what `AutoTokenizer` loads from a BERT folder).
        text_length: tokens of a text at most, `[CLS]` and `[SEP]` included (section 4.5: 16).

    Raises:
        SohoError: `text_length` is below 3, or the tokenizer lacks one of BERT's special tokens.
    """

    def __init__(
        self, image_processor: SohoImageProcessor, tokenizer: PreTrainedTokenizerBase, text_length: int = 16
    ) -> None:
        if text_length < 3:
            raise SohoError(f"text_length={text_length} leaves no room for a word between [CLS] and [SEP]")
        for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
            if getattr(tokenizer, name, None) is None:
                raise SohoError(f"the tokenizer has no {name}; expected a BERT-style WordPiece tokenizer")
        super().__init__(image_processor, tokenizer)
        self.text_length = text_length

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        # The inherited way asks AutoImageProcessor, which knows this class only where it has been registered.
        return [
            SohoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors this processor makes."""
        return ["pixel_values", "pixel_mask", "input_ids", "attention_mask"]

    def __call__(
        self,
        images: Picture | Sequence[Picture] | None = None,
        text: str | Sequence[str] | None = None,
        padding: bool | str = True,
        pad_to_largest: bool = False,
        canvas: Size | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Turn B pictures, T texts or both into model inputs.

        Args:
            images: see `SohoImageProcessor.__call__`.
            text: one or several texts; each becomes `[CLS] text [SEP]`, cut to `text_length` tokens.
            padding: True or "longest" pads to the longest text of the call, "max_length" to `text_length`.
            pad_to_largest: see `SohoImageProcessor.__call__`.
            canvas: see `SohoImageProcessor.__call__`.
            return_tensors: "pt" or "np".

        Returns:
            `pixel_values` (B, 3, H, W) float32 and `pixel_mask` (B, H, W) bool where there are pictures, `input_ids`
            and `attention_mask` (T, L) int64 where there are texts.

        Raises:
            SohoError: neither pictures nor texts, an unknown `padding`, or what the image processor refuses.
        """
        data: dict[str, Any] = {}
        if images is not None:
            data |= self.image_processor(images, return_tensors=None, pad_to_largest=pad_to_largest, canvas=canvas)
        if text is not None:
            if padding not in (True, "longest", "max_length"):
                raise SohoError(f"padding={padding!r} is not known; expected True, 'longest' or 'max_length'")
            rows = self.encode_batch([text] if isinstance(text, str) else text)
            data |= self.pad(rows, self.text_length if padding == "max_length" else None)
        if not data:
            raise SohoError("neither pictures nor texts were given")
        return BatchFeature(data, tensor_type=return_tensors)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `[CLS] text [SEP]`, cut to `text_length`, not padded."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of several texts; see `encode`."""
        if not len(texts):
            return []
        # Padding and truncation are said at every call: tokenizer files may carry settings of their own.
        return self.tokenizer(
            list(texts),
            padding=False,
            truncation=True,
            max_length=self.text_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    def pad(self, rows: Sequence[Sequence[int] | np.ndarray], length: int | None = None) -> dict[str, np.ndarray]:
        """Pad rows of token ids on the right.

        Args:
            rows: T rows.
            length: L; None takes the longest row.

        Returns:
            `input_ids` (T, L) and `attention_mask` (T, L), int64.
        """
        ids = pad_rows(rows, int(self.tokenizer.pad_token_id), length)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return {
            "input_ids": ids,
            "attention_mask": (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64),
        }

    def text_lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before any cutting, `[CLS]` and `[SEP]` included.

        A text is cut by this processor where its number is above `text_length`.
        """
        return list(self._lengths(texts))

    def _lengths(self, texts: Sequence[str]) -> Iterator[int]:
        source = iter(texts)
        while portion := list(islice(source, _PORTION)):
            encoded = self.tokenizer(
                portion,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            yield from map(len, encoded["input_ids"])


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], value: int, length: int | None = None) -> np.ndarray:
    """Pad rows of numbers on the right; returns (T, L) int64, L = `length` or the longest row."""
    width = max((len(row) for row in rows), default=0) if length is None else length
    table = np.full((len(rows), width), value, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table
