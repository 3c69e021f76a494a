"""How the tensors of a released checkpoint are called, and how they are called here."""

from __future__ import annotations

import re

from soho.models.initialization import BERT_EMBEDDINGS, BERT_LAYER

# The word embedding once more, where MLM reads it.
TIED_KEY = "mask_l_fc.weight"
WORD_KEY = "language.bert.embeddings.word_embeddings.weight"

_STAGE = r"visual_encoder\.backbone\.encoder\.stages\.(\d+)\.layers\.(\d+)\."
# Our name without the prefix of the trunk -> theirs; the first pattern that fits counts. (.+) is weight, bias, ...
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"visual_encoder\.backbone\.embedder\.embedder\.convolution\.(.+)", r"backbone.conv1.\1"),
    (r"visual_encoder\.backbone\.embedder\.embedder\.normalization\.(.+)", r"backbone.bn1.\1"),
    (_STAGE + r"layer\.(\d+)\.convolution\.(.+)", r"backbone.layer{+1}.\2.conv{+3}.\4"),
    (_STAGE + r"layer\.(\d+)\.normalization\.(.+)", r"backbone.layer{+1}.\2.bn{+3}.\4"),
    (_STAGE + r"shortcut\.convolution\.(.+)", r"backbone.layer{+1}.\2.downsample.0.\3"),
    (_STAGE + r"shortcut\.normalization\.(.+)", r"backbone.layer{+1}.\2.downsample.1.\3"),
    (r"visual_encoder\.projection\.(.+)", r"neck.conv.conv.\1"),
    (r"visual_encoder\.norm\.(.+)", r"neck.conv.bn.\1"),
    (r"visual_norm\.(.+)", r"neck.ln.\1"),
    (r"mask_vector\.(.+)", r"neck.mask_emb.\1"),
    (r"visual_dictionary\.codes", "neck.vq.embed"),
    (r"visual_dictionary\.counts", "neck.vq.cluster_size"),
    (r"visual_dictionary\.hits", "neck.vq.cluster_sum"),
    (r"visual_dictionary\.sums", "neck.vq.embed_avg"),
    (r"code_gate\.projection\.(.+)", r"neck.gate_fc.conv.\1"),
    (r"code_gate\.norm\.(.+)", r"neck.gate_fc.bn.\1"),
    (r"code_gate\.mapping\.(.+)", r"neck.pos_line.\1"),
    *(
        (rf"embeddings\.{ours}\.(.+)", rf"language.bert.embeddings.{theirs}.\1")
        for theirs, ours in BERT_EMBEDDINGS.items()
    ),
    *(
        (rf"fusion\.layers\.(\d+)\.{ours}\.(.+)", rf"language.bert.encoder.layer.\1.{theirs}.\2")
        for theirs, ours in BERT_LAYER.items()
    ),
    (r"match_head\.(.+)", r"head.match_class.\1"),
    (r"answer_head\.(.+)", r"head.vqa.\1"),
    (r"mlm_head\.weight", TIED_KEY),
)


def released_key(name: str) -> str:
    """Return what the release calls a tensor of a model in its wiring.

    Args:
        name: a name of `state_dict()`, for instance "soho.visual_norm.weight".

    Raises:
        KeyError: the release has no such tensor.
    """
    plain = name.removeprefix("soho.")
    for pattern, template in _RENAMED:
        if match := re.fullmatch(pattern, plain):
            # {+n}: the number in group n counted from 1, as their layers and convolutions are.
            counted = re.sub(r"\{\+(\d)\}", lambda place: str(int(match[int(place[1])]) + 1), template)
            return match.expand(counted)
    raise KeyError(name)
