"""A WordPiece vocabulary trained on the captions, for runs that start from no BERT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, PreTrainedTokenizerBase

from soho.errors import SohoError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Rarer characters become [UNK]: a caption with one emoji must not cost a place in the vocabulary.
MOST_CHARACTERS = 1000


def train_wordpiece(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Train a lower-case WordPiece tokenizer; equal texts in any order give the same vocabulary.

    Args:
        texts: the training texts.
        size: number of tokens at most, special ones included; few texts give fewer tokens.

    Returns:
        A `BertTokenizer` whose `[PAD] [UNK] [CLS] [SEP] [MASK]` are the ids 0 to 4. `save_pretrained` and
        `AutoTokenizer.from_pretrained` work on it as on any other.

    Raises:
        SohoError: there is no text, or `size` is too small to hold the single characters.
    """
    texts = list(texts)
    trainer_model = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    trainer_model.normalizer = normalizers.BertNormalizer(lowercase=True)
    trainer_model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = _characters(texts, trainer_model.normalizer)
    # Punctuation is always a word of its own, so it never continues one.
    inside = [letter for letter in characters if len(trainer_model.pre_tokenizer.pre_tokenize_str("a" + letter)) == 1]
    # The trainer numbers the "##" pieces in the random order of a hash map, and equal counts are decided by these
    # numbers: left alone, two runs on the same texts differ. Naming the pieces beforehand fixes the order.
    first = [*SPECIAL_TOKENS, *("##" + letter for letter in inside)]
    smallest = len(first) + len(characters)
    if not characters:
        raise SohoError("no WordPiece vocabulary can be trained: the texts are empty")
    if size < smallest:
        raise SohoError(
            f"a vocabulary of {size} is too small: special tokens and single characters alone take {smallest}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=first,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    trainer_model.train_from_iterator(texts, trainer)
    vocabulary = sorted(trainer_model.get_vocab().items(), key=lambda entry: entry[1])
    return BertTokenizer(vocab=dict(vocabulary), do_lower_case=True, model_max_length=512)


def _characters(texts: Iterable[str], normalizer: normalizers.Normalizer) -> list[str]:
    """Return the most frequent characters of the normalised texts, sorted."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    counts: Counter[str] = Counter()
    for letter, count in raw.items():
        for part in normalizer.normalize_str(letter):
            if not part.isspace():
                counts[part] += count
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(ranked[:MOST_CHARACTERS])
