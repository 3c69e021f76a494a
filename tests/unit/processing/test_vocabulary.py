from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from soho.errors import SohoError
from soho.processing.vocabulary import train_wordpiece

TEXTS = [
    f"a {colour} {thing} {verb} the {place}"
    for colour in ("red", "green", "striped", "blue")
    for thing in ("dog", "dogs", "circle", "triangle", "house")
    for verb in ("is left of", "stands beside", "covers")
    for place in ("lake", "mountain", "meadow")
]

PRINT_DIGEST = """
import hashlib
from tests.unit.processing.test_vocabulary import TEXTS
from soho.processing.vocabulary import train_wordpiece
vocabulary = train_wordpiece(TEXTS[::-1], 90).get_vocab()
print(hashlib.sha256(repr(sorted(vocabulary.items())).encode()).hexdigest())
"""


def test_special_tokens_first_and_lower_case() -> None:
    tokenizer = train_wordpiece(TEXTS, 300)
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.mask_token_id == 4
    assert tokenizer.tokenize("The RED triangle") == ["the", "red", "triangle"]
    assert tokenizer("red")["input_ids"] == [2, tokenizer.convert_tokens_to_ids("red"), 3]
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_smallest_vocabulary_by_hand() -> None:
    # 5 special tokens; "##a", "##b" (continuations); "!", "a", "b"; "!" is always a word of its own.
    tokenizer = train_wordpiece(["ab ba!"], 10)
    assert tokenizer.convert_ids_to_tokens(range(5, 10)) == ["##a", "##b", "!", "a", "b"]
    assert tokenizer.tokenize("BA! aab c") == ["b", "##a", "!", "a", "##a", "##b", "[UNK]"]


def test_frequent_words_become_one_token_and_single_ones_do_not() -> None:
    tokenizer = train_wordpiece(["red red red xyz"], 100)
    assert tokenizer.tokenize("red xyz") == ["red", "x", "##y", "##z"]


def test_two_processes_and_another_order_give_the_same_ids() -> None:
    expected = hashlib.sha256(repr(sorted(train_wordpiece(TEXTS, 90).get_vocab().items())).encode()).hexdigest()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == expected


def test_rare_characters_become_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soho.processing.vocabulary.MOST_CHARACTERS", 3)
    tokenizer = train_wordpiece(["aaa bbb cc é 犬", "aaa bbb cc"], 50)
    letters = {token for token in tokenizer.get_vocab() if len(token) == 1}
    assert letters == {"a", "b", "c"}
    assert tokenizer.tokenize("犬 cc") == ["[UNK]", "cc"]


def test_save_and_load(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(TEXTS, 100)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (
        loaded("a striped dog covers the lake")["input_ids"] == tokenizer("a striped dog covers the lake")["input_ids"]
    )


def test_too_small_or_without_text() -> None:
    with pytest.raises(SohoError, match=r"a vocabulary of 9 is too small: .* take 10"):
        train_wordpiece(["ab ba!"], 9)
    with pytest.raises(SohoError, match="the texts are empty"):
        train_wordpiece(["", "  "], 100)
