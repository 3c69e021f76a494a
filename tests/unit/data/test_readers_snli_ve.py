"""SNLI-VE and e-SNLI-VE: labels, rows without an agreed label, names of photographs, CSV."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import snli_ve
from soho.data.sources import Source, excluded_photographs, leave_out, load_captions, load_hypotheses
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_jsonl, write_pictures

HEADER = ",pairID,Flickr30kID,hypothesis,gold_label,explanation"


def row(photo: str, label: str = "neutral", text: str = "A dog  sleeps.", **more: Any) -> dict[str, Any]:
    return {"Flickr30K_ID": photo, "gold_label": label, "sentence1": "A dog.", "sentence2": text, **more}


def store(tmp_path: Path, *files: str) -> ImageStore:
    return ImageStore([write_pictures(tmp_path / "images", files)])


def test_a_photograph_and_a_hypothesis(tmp_path: Path) -> None:
    rows = [row("11", "entailment", pairID="11.jpg#2r1e"), row("22", "contradiction"), row("22")]
    items, notes = snli_ve.read_hypotheses(
        write_jsonl(tmp_path / "a.jsonl", rows), store(tmp_path, "11.jpg", "22_ab12.jpg", "33.jpg")
    )
    assert [(item.hypothesis_id, item.label) for item in items] == [
        ("11.jpg#2r1e", "entailment"),
        ("22#2", "contradiction"),  # no pairID: photograph and line
        ("22#3", "neutral"),
    ]
    assert items[0].hypothesis == "A dog sleeps."
    assert (items[0].image_id, items[0].photo_key) == ("11", "flickr:11")
    # Flickr30k's name and Flickr8k's.
    assert [Path(item.image.path).name for item in items] == ["11.jpg", "22_ab12.jpg", "22_ab12.jpg"]
    assert (notes.rows, notes.used, notes.texts) == (3, 3, 3)


def test_rows_without_an_agreed_label_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row("1", "-", pairID="p1"), row("1"), row("1", "-", pairID="p3")]
    items, notes = snli_ve.read_hypotheses(write_jsonl(tmp_path / "a.jsonl", rows), store(tmp_path, "1.jpg"))
    assert len(items) == 1
    assert notes.dropped == {'gold label "-"': 2}
    assert notes.dropped_names == {'gold label "-"': ["p1", "p3"]}
    assert notes.lines() == [f'snli_ve ({tmp_path / "a.jsonl"}): 2 left out, gold label "-": p1, p3']
    with pytest.raises(SohoError, match=r'a\.jsonl gives no rows \(1 left out, gold label "-"\)'):
        snli_ve.read_hypotheses(write_jsonl(tmp_path / "a.jsonl", rows[:1]), store(tmp_path, "1.jpg"))


def test_missing_photographs_are_counted_and_named(tmp_path: Path) -> None:
    rows = [row("1"), row("2", pairID="x"), row("2", pairID="y"), row("3", pairID="z")]
    path, images = write_jsonl(tmp_path / "a.jsonl", rows), store(tmp_path, "1.jpg")
    with pytest.raises(SohoError, match=r"snli_ve: 2 images that .*a\.jsonl names are not in .*: 2\.jpg, 3\.jpg"):
        snli_ve.read_hypotheses(path, images)
    items, notes = snli_ve.read_hypotheses(path, images, on_missing="skip")
    assert [item.image_id for item in items] == ["1"]
    assert (notes.missing, notes.missing_names) == (2, ["2.jpg", "3.jpg"])
    assert notes.dropped_names == {"pair whose photograph was not found": ["x", "y", "z"]}


def test_csv(tmp_path: Path) -> None:
    lines = [
        HEADER,
        '4,1.jpg#2r1c,1.jpg,"One, ""two""\nthree.",contradiction,"because\nso"',
        "8,1.jpg#1r2e,1.jpg,People.,entailment,",
        "9,1.jpg#1r2n,1.jpg,Nobody.,-,",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    items, notes = snli_ve.read_hypotheses(tmp_path / "a.csv", store(tmp_path, "1.jpg"))
    assert [(item.hypothesis_id, item.hypothesis, item.label) for item in items] == [
        ("1.jpg#2r1c", 'One, "two" three.', "contradiction"),
        ("1.jpg#1r2e", "People.", "entailment"),
    ]
    assert items[0].photo_key == "flickr:1"
    assert notes.dropped == {'gold label "-"': 1}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r":2: not JSON"),
        ('"a"', r":2: an object was expected, found a string"),
        (row("1", "maybe"), r':2: "gold_label" must be one of entailment, neutral, contradiction or "-", found a str'),
        ({"Flickr30K_ID": "1", "sentence2": "a"}, r':2: "gold_label" must be .*, the key is missing'),
        ({"gold_label": "neutral", "sentence2": "a"}, r':2: "Flickr30K_ID" must be the number .*, the key is missing'),
        (row("one"), r":2: \"Flickr30K_ID\" must be the number of a Flickr photograph, found a string: 'one'"),
        ({"Flickr30K_ID": "1", "gold_label": "neutral"}, r':2: "sentence2" must be a string, the key is missing'),
        (row("1", text=" ", pairID="p"), r":2: pair p: empty sentence2"),
    ],
)
def test_broken_lines(tmp_path: Path, line: Any, sentence: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [row("1"), line])
    with pytest.raises(SohoError, match=sentence) as caught:
        snli_ve.read_hypotheses(path, store(tmp_path, "1.jpg"))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pairID,hypothesis,gold_label\n", r"a\.csv has no column Flickr30kID, but an SNLI-VE file .* was expected"),
        ("", r"a\.csv has no column Flickr30kID"),
        (f"{HEADER}\n1,p,1.jpg,a\n", r"a\.csv:2: another number of columns than the header's 6"),
        (f"{HEADER}\n1,p,1.jpg,a,neutral,x,y\n", r"a\.csv:2: another number of columns than the header's 6"),
        (f'{HEADER}\n1,p,1.jpg,"a,neutral,x\n', r"a\.csv:2: not CSV \(unexpected end of data\)"),
    ],
)
def test_broken_tables(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SohoError, match=sentence):
        snli_ve.read_hypotheses(tmp_path / "a.csv", store(tmp_path, "1.jpg"))


def test_a_leak_between_flickr8k_and_snli_ve_is_seen_by_the_photo_key(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("1_ab.jpg#0\ta dog\n2_cd.jpg#0\ta cat\n")
    write_pictures(tmp_path / "images", ["1_ab.jpg", "2_cd.jpg"])
    path = write_jsonl(tmp_path / "dev.jsonl", [row("2")])
    excluded = excluded_photographs([Source(format="snli_ve", annotations=path, images=[tmp_path / "nowhere"])])
    captions = Source(format="flickr8k", annotations=tmp_path / "tokens.txt", images=[tmp_path / "images"])
    kept, remark = leave_out(load_captions(captions)[0], excluded)
    assert [image.image_id for image in kept] == ["1_ab.jpg"]
    assert remark == "1 photograph left out because of data.exclude"


def test_lines_as_published() -> None:
    folder = shared_data("samples/snli_ve")
    annotations = folder / "snli_ve.sample.jsonl"
    items, notes = load_hypotheses(Source(format="snli_ve", annotations=annotations, images=[folder / "images"]))
    assert len(items) == 16
    assert (items[0].hypothesis_id, items[0].hypothesis) == ("2248275918.jpg#2r1c", "A toddler sleeps outside.")
    assert items[0].label == "contradiction"
    assert notes.lines() == []


@pytest.mark.parametrize(
    ("file", "rows", "used"),
    [("snli_ve_flickr8k_train.derived.jsonl", 4240, 3720), ("esnlive_dev_flickr8k.derived.csv", 3217, 2930)],
)
def test_the_photographs_of_flickr8k(file: str, rows: int, used: int) -> None:
    zips = [shared_data(f"flickr8k/images_{part}.zip") for part in ("train", "dev", "other")]
    source = Source(format="snli_ve", annotations=shared_data(f"snli_ve/{file}"), images=zips, on_missing="skip")
    items, notes = load_hypotheses(source)
    assert (notes.rows, len(items)) == (rows, used)
    assert notes.dropped == {"pair whose photograph was not found": rows - used}
    assert min(Counter(item.label for item in items).values()) > used / 5
