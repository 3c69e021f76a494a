"""Checkpoints of the release: round trips, layouts, and every way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from soho.conversion import REPORT_NAME, convert_released
from soho.errors import SohoError
from soho.models import SohoForPreTraining, SohoForQuestionAnswering, SohoPreTrainedModel
from soho.models.initialization import quiet_transformers
from soho.models.released.conversion import to_released
from tests.unit.models.released import HEADS, official_content, optimizer_state, prefixed, released_model, write
from tests.unit.models.tiny import picture_batch, pretraining_batch, tiny_config

CLASSES: dict[str, Any] = {"pretraining": SohoForPreTraining, "vqa": SohoForQuestionAnswering}
WORDS = "language.bert.embeddings.word_embeddings.weight"
TIED = "mask_l_fc.weight"


def load(kind: str, folder: Path) -> SohoPreTrainedModel:
    with quiet_transformers():
        return CLASSES[kind].from_pretrained(folder)


def output_of(model: SohoPreTrainedModel) -> torch.Tensor:
    batch = pretraining_batch() if hasattr(model, "mlm_head") else picture_batch(2)
    with torch.no_grad():
        output = model(**batch)
    return torch.cat(
        [output.logits.flatten(), *([output.mlm_logits.flatten()] if hasattr(output, "mlm_logits") else [])]
    )


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("kind", CLASSES)
def test_round_trip_is_equal_bit_for_bit(kind: str, bottleneck: bool, tmp_path: Path) -> None:
    resnet = {
        "model_type": "resnet",
        "layer_type": "bottleneck",
        "embedding_size": 4,
        "hidden_sizes": [16, 32, 64, 128],
        "depths": [1, 2, 2, 1],
    }
    model = released_model(kind, **({"visual_backbone": resnet} if bottleneck else {}))
    source = write(tmp_path / "in.pth", official_content(model))
    report = convert_released(source, tmp_path / "out")
    again = load(kind, tmp_path / "out")
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(output_of(model), output_of(again))
    back, first = to_released(again), to_released(model)
    assert back.keys() == first.keys()
    assert all(torch.equal(value, back[key]) and value.dtype == back[key].dtype for key, value in first.items())
    # And out of our folder into theirs and back once more.
    convert_released(write(tmp_path / "again.pth", official_content(again)), tmp_path / "again")
    third = load(kind, tmp_path / "again").state_dict()
    assert all(torch.equal(value, third[name]) for name, value in ours.items())
    # Every key is in the report, once.
    told = set(report.used) | {key for key in report.ignored if "." in key}
    assert told == set(first)
    lines = (tmp_path / "out" / REPORT_NAME).read_text(encoding="utf-8").splitlines()
    assert all(any(line.startswith((f"used: {key} -> ", f"ignored: {key} (")) for line in lines) for key in first)
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".safetensors", ".txt"}


LAYOUTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "with optimizer": lambda content: {**content, "optimizer": optimizer_state()},
    "with amp": lambda content: {**content, "amp": {"loss_scaler0": {"loss_scale": 128.0, "unskipped": 7}}},
    "prefixed": lambda content: {**content, "state_dict": prefixed(content["state_dict"])},
    "bare": lambda content: content["state_dict"],
    "bare and prefixed": lambda content: prefixed(content["state_dict"]),
    "without tied copy": lambda content: {**content, "state_dict": without(content["state_dict"], TIED)},
    "without meta": lambda content: {"state_dict": content["state_dict"]},
}


def without(state: OrderedDict[str, torch.Tensor], key: str) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((name, value) for name, value in state.items() if name != key)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, old_format: bool, tmp_path: Path) -> None:
    model = released_model("pretraining")
    content = LAYOUTS[layout](official_content(model))
    source = write(tmp_path / "in.pth", content, _use_new_zipfile_serialization=not old_format)
    report = convert_released(source, tmp_path / "out", heads=HEADS)
    again = load("pretraining", tmp_path / "out")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert ("optimizer" in report.ignored) == (layout == "with optimizer")
    assert (TIED in report.ignored) == (layout != "without tied copy")
    assert any("module." in note for note in report.notes) == ("prefixed" in layout)


def test_attention_heads(tmp_path: Path) -> None:
    model = released_model("vqa")
    content = official_content(model)
    told = convert_released(write(tmp_path / "a.pth", content), tmp_path / "a")
    assert f"{HEADS} attention heads, from the settings in the file" in told.notes
    silent = write(tmp_path / "b.pth", content["state_dict"])
    with pytest.raises(
        SohoError, match="does not tell its number of attention heads, and 16 channels are no multiple of"
    ):
        convert_released(silent, tmp_path / "b")
    convert_released(silent, tmp_path / "c", heads=4)
    assert load("vqa", tmp_path / "c").config.num_attention_heads == 4
    with pytest.raises(SohoError, match="num_attention_heads=3 must divide hidden_size=16"):
        convert_released(silent, tmp_path / "d", heads=3)
    wide = released_model("vqa", hidden_size=128, num_attention_heads=2)
    report = convert_released(write(tmp_path / "e.pth", to_released(wide)), tmp_path / "e")
    assert "2 attention heads, 64 channels each as in BERT; the file does not tell" in report.notes


def test_answers(tmp_path: Path) -> None:
    source = write(tmp_path / "in.pth", official_content(released_model("vqa")))
    report = convert_released(source, tmp_path / "out")
    assert load("vqa", tmp_path / "out").config.answers == ["answer 0", "answer 1", "answer 2"]
    assert any("no answers were named" in note for note in report.notes)
    listed = tmp_path / "answers.json"
    for number, text in enumerate(
        ['["a", "b", "c"]', '{"label2ans": ["a", "b", "c"]}', '{"label2ans": {"1": "b", "0": "a", "2": "c"}}']
    ):
        listed.write_text(text, encoding="utf-8")
        convert_released(source, tmp_path / f"named{number}", answers=listed)
        assert load("vqa", tmp_path / f"named{number}").config.answers == ["a", "b", "c"]
    bad = {
        '["a"]': "chooses between 3 answers, but 1 were named",
        '{"labels": []}': "must hold a JSON list of strings",
        '{"label2ans": {"0": "a", "2": "c", "3": "d"}}': "must hold a JSON list of strings",
        "nothing": "cannot be read",
    }
    for text, words in bad.items():
        listed.write_text(text, encoding="utf-8")
        with pytest.raises(SohoError, match=words):
            convert_released(source, tmp_path / "bad", answers=listed)
    listed.write_text('["a", "b", "c"]', encoding="utf-8")
    pretraining = write(tmp_path / "pre.pth", official_content(released_model("pretraining")))
    with pytest.raises(SohoError, match="is a pre-training checkpoint and answers no questions"):
        convert_released(pretraining, tmp_path / "bad", answers=listed)
    assert not (tmp_path / "bad").exists()


def test_the_hash_in_a_published_name(tmp_path: Path) -> None:
    source = write(tmp_path / "soho.pth", official_content(released_model("vqa")))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    right, wrong = tmp_path / f"soho-{digest}.pth", tmp_path / "soho-00000000.pth"
    for path in (right, wrong):
        path.write_bytes(source.read_bytes())
    assert any(f"{digest}, agrees" in note for note in convert_released(right, tmp_path / "a").notes)
    assert any("does NOT agree" in note for note in convert_released(wrong, tmp_path / "b").notes)


# -- What is wrong with a file ---------------------------------------------------------------------------------------


def refused(source: Path, out: Path, **options: Any) -> str:
    """Convert a bad file; return its one sentence. Nothing may be left behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(SohoError) as caught:
        convert_released(source, out, **{"heads": HEADS, **options})
    assert sorted(out.parent.iterdir()) == before
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


def renamed(state: OrderedDict[str, Any], old: str, new: str) -> OrderedDict[str, Any]:
    return OrderedDict((new if key == old else key, value) for key, value in state.items())


def with_tensor(key: str, change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], Any]:
    def apply(content: dict[str, Any]) -> Any:
        state = content["state_dict"]
        return {**content, "state_dict": OrderedDict((k, change(v) if k == key else v) for k, v in state.items())}

    return apply


def on_state(change: Callable[[OrderedDict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {**content, "state_dict": change(content["state_dict"])}


LN = "neck.ln.weight"
Change = Callable[[dict[str, Any]], Any]
WRONG: dict[str, tuple[Change, str]] = {
    "renamed": (
        on_state(lambda s: renamed(s, LN, "neck.ln.wait")),
        "key 'neck.ln.weight' is missing and key 'neck.ln.wait' is unknown; nothing was loaded",
    ),
    "renamed, tells a size": (
        on_state(lambda s: renamed(s, "backbone.conv1.weight", "backbone.conv0.weight")),
        "tensor 'backbone.conv1.weight' is missing",
    ),
    "missing": (on_state(lambda s: without(s, LN)), "key 'neck.ln.weight' is missing; nothing"),
    "more": (
        on_state(lambda s: OrderedDict([*s.items(), ("pooler.weight", torch.ones(2)), ("x", torch.ones(1))])),
        "key 'pooler.weight' and 1 more are unknown",
    ),
    "wrong shape": (
        with_tensor(LN, lambda v: torch.ones(17)),
        r"tensor 'neck.ln.weight' has shape \(17,\); expected \(16,\)",
    ),
    "wrong shape of a size": (
        with_tensor("backbone.layer3.0.conv2.weight", lambda v: torch.ones(5, 16, 3, 3)),
        r"tensor 'backbone.layer3.0.*' has shape .*; expected",
    ),
    "wrong number of axes": (with_tensor(WORDS, lambda v: v.flatten()), "has shape .*; expected 2 dimensions"),
    "one value": (
        with_tensor("backbone.conv1.weight", lambda v: torch.tensor(1.0)),
        r"has shape \(\); expected 4 dimensions",
    ),
    "half precision": (
        with_tensor(LN, lambda v: v.half()),
        "tensor 'neck.ln.weight' is torch.float16; expected torch.float32",
    ),
    "not finite": (with_tensor(LN, lambda v: v / 0), "'neck.ln.weight' holds values that are not finite"),
    "no tensor": (with_tensor(LN, lambda v: 5), "'neck.ln.weight' is a int; expected a tensor"),
    "tied copies differ": (with_tensor(TIED, lambda v: v + 1), "'mask_l_fc.weight' differs from"),
    "prefix on some": (on_state(lambda s: renamed(s, LN, f"module.{LN}")), "some keys start with 'module.'"),
    "no head": (on_state(lambda s: without(s, "head.match_class.weight")), "has neither the head of pre-training"),
    "another entry": (lambda content: {**content, "extra": 1}, "has an entry 'extra' beside state_dict"),
    "empty": (lambda content: {"state_dict": {}}, "has no state_dict with weights in it"),
    "a list": (lambda content: [1, 2], "holds a list; expected a checkpoint"),
    "a tensor": (lambda content: torch.ones(3), "holds a Tensor; expected a checkpoint"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content(case: str, tmp_path: Path) -> None:
    change, words = WRONG[case]
    source = write(tmp_path / "in.pth", change(official_content(released_model("pretraining"))))
    sentence = refused(source, tmp_path / "out")
    assert re.search(words, sentence), sentence
    assert str(source) in sentence


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_cut_off(share: float, old_format: bool, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.pth", official_content(released_model("vqa")), _use_new_zipfile_serialization=not old_format
    )
    data = source.read_bytes()
    source.write_bytes(data[: int(share * len(data))])
    assert "no whole checkpoint" in refused(source, tmp_path / "out")


def test_any_changed_byte_of_the_weights_is_noticed(tmp_path: Path) -> None:
    source = write(tmp_path / "in.pth", official_content(released_model("vqa")))
    whole = source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        records = [info for info in archive.infolist() if info.file_size > 3]
    assert len(records) > 50
    for info in records[::7]:
        data = bytearray(whole)
        header = info.header_offset
        start = header + 30 + int.from_bytes(data[header + 26 : header + 28], "little")
        start += int.from_bytes(data[header + 28 : header + 30], "little")
        data[start + info.file_size // 2] ^= 0x10
        source.write_bytes(data)
        sentence = refused(source, tmp_path / "out")
        assert "corrupted" in sentence


def test_noise_and_absence(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    source.write_bytes(bytes(range(256)) * 40)
    assert "no whole checkpoint" in refused(source, tmp_path / "out")
    assert "is not a file" in refused(tmp_path / "absent.pth", tmp_path / "out")
    assert "is not a file" in refused(tmp_path, tmp_path / "out")


class Payload:
    """Pickled code: writes a file when it is loaded by a careless reader."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("place", ["meta", "state_dict", "optimizer", "top"])
def test_code_in_the_pickle_is_never_run(place: str, old_format: bool, tmp_path: Path) -> None:
    content = official_content(released_model("vqa"))
    trace = tmp_path / "trace"
    if place == "top":
        bad: Any = Payload(trace)
    elif place == "optimizer":
        bad = {**content, "optimizer": Payload(trace)}
    else:
        bad = {**content, place: {**content[place], "neck.ln.weight": Payload(trace)}}
    source = write(tmp_path / "in.pth", bad, _use_new_zipfile_serialization=not old_format)
    sentence = refused(source, tmp_path / "out")
    assert "would run code when it is loaded" in sentence
    assert "system" in sentence
    assert not trace.exists()
    torch.load(source, weights_only=False)  # the trap works
    assert trace.exists()


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "in.pth", official_content(released_model("vqa")))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    assert "is there already" in refused(source, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    convert_released(source, out)  # an empty one may be filled
    assert load("vqa", out)


def test_only_the_released_wiring_can_be_written_back() -> None:
    with pytest.raises(SohoError, match="has no counterpart in the release"):
        to_released(SohoForPreTraining(tiny_config()))
