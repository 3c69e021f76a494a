from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soho.data.check import check
from soho.data.sources import (
    Source,
    excluded_photographs,
    leave_out,
    load_captions,
    load_hypotheses,
    load_questions,
    load_statements,
)
from soho.errors import SohoError
from tests.unit.data.pictures import write_json, write_jsonl, write_pictures, zip_folder


def test_one_image_place_may_stand_without_list() -> None:
    assert Source(format="coco", annotations="a.json", images="photos").images == [Path("photos")]
    assert Source(format="coco", annotations="a.json", images=["x.zip", "y"]).images == [Path("x.zip"), Path("y")]
    assert Source(format="coco", annotations="a.json", images="x").title == "coco"
    assert Source(format="coco", annotations="a.json", images="x", name="mine").title == "mine"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"format": "coco", "images": "x"}, "format coco needs annotations"),
        ({"format": "coco", "annotations": "x"}, "format coco needs images"),
        ({"format": "vqa2", "annotations": "x", "images": "x"}, "format vqa2 needs questions"),
        ({"format": "coco", "annotations": "x", "images": "x", "split": "train"}, "split belongs to format karpathy"),
        (
            {"format": "jsonl", "annotations": "x", "split_file": "x"},
            "split_file belongs to format flickr8k or flickr30k or coco, not to jsonl",
        ),
        ({"format": "jsonl", "annotations": "x", "limit": 0}, "greater than or equal to 1"),
        ({"format": "jsonl", "annotations": "x", "on_missing": "ignore"}, "'error' or 'skip'"),
        ({"format": "jsonl", "annotations": "x", "image": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_fields_must_fit_the_format(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Source(**fields)


def test_own_pictures_lie_beside_their_file_by_default(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.jpg"])
    path = write_jsonl(tmp_path / "own.jsonl", [{"image": "a.jpg", "caption": "x", "question": "y", "answer": "z"}])
    source = Source(format="jsonl", annotations=path)
    captions, notes = load_captions(source)
    assert captions[0].image.path == str(tmp_path / "a.jpg")
    assert (notes.source, notes.file) == ("jsonl", str(path))
    assert load_questions(source)[0][0].answers == ("z",)


def test_every_format_is_dispatched_with_its_fields(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", ["1.jpg", "22.jpg", "COCO_val2014_000000000001.jpg"])
    archive = zip_folder(tmp_path / "p", tmp_path / "p.zip")
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("1.jpg#0\tone\n22.jpg#0\ttwo\n")
    names = tmp_path / "names.txt"
    names.write_text("22.jpg\n")
    coco = write_json(
        tmp_path / "coco.json",
        {
            "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 22, "file_name": "22.jpg"}],
            "annotations": [{"image_id": 1, "id": 1, "caption": "x"}, {"image_id": 22, "id": 2, "caption": "y"}],
        },
    )
    karpathy = write_json(
        tmp_path / "k.json",
        {
            "images": [{"filename": "22.jpg", "cocoid": 22, "split": "val", "sentences": [{"raw": "x", "sentid": 1}]}],
            "dataset": "coco",
        },
    )
    regions = write_json(tmp_path / "vg.json", [{"id": 22, "regions": [{"region_id": 1, "phrase": "x"}]}])
    data = write_json(tmp_path / "vg_data.json", [{"image_id": 22, "coco_id": 5, "width": 8, "height": 6}])
    questions = write_json(
        tmp_path / "q.json",
        {"data_subtype": "val2014", "questions": [{"image_id": 1, "question_id": 1, "question": "?"}]},
    )
    common: dict[str, Any] = {"images": archive}
    for fields, key in (
        ({"format": "coco", "annotations": coco, "split_file": names}, "coco:22"),
        ({"format": "karpathy", "annotations": karpathy, "split": "val"}, "coco:22"),
        ({"format": "visual_genome", "annotations": regions, "image_data": data}, "coco:5"),
        ({"format": "flickr8k", "annotations": tokens, "split_file": names}, "flickr:22"),
        ({"format": "flickr30k", "annotations": tokens, "split_file": names}, "flickr:22"),
    ):
        items, notes = load_captions(Source(**fields, **common, name="mine"))
        assert [item.photo_key for item in items] == [key]
        assert items[0].image.archive == str(archive)
        assert notes.source == "mine"
    items, _ = load_captions(Source(format="flickr8k", annotations=tokens, **common, limit=1))
    assert [item.image_id for item in items] == ["1.jpg"]
    asked, _ = load_questions(Source(format="vqa2", questions=questions, **common))
    assert asked[0].photo_key == "coco:1"


def test_a_source_of_the_wrong_kind(tmp_path: Path) -> None:
    vqa = Source(format="vqa2", questions="q.json", images=str(tmp_path))
    with pytest.raises(SohoError, match=r"vqa2 \(format vqa2, q\.json\) has questions, but captions are needed here"):
        load_captions(vqa)
    coco = Source(format="coco", annotations="c.json", images=str(tmp_path), name="mine")
    with pytest.raises(SohoError, match=r"mine \(format coco, c\.json\) has captions, but questions are needed here"):
        load_questions(coco)
    pairs = Source(format="nlvr2", annotations="n.json", images=str(tmp_path))
    with pytest.raises(
        SohoError, match=r"nlvr2 \(format nlvr2, n\.json\) has statements about two pictures, but capti"
    ):
        load_captions(pairs)
    with pytest.raises(SohoError, match=r"hypotheses are needed here; formats with hypotheses: snli_ve, shards$"):
        load_hypotheses(pairs)
    with pytest.raises(
        SohoError, match=r"has captions, but statements about two pictures are needed here; .*: nlvr2, shards$"
    ):
        load_statements(coco)


def test_a_place_that_does_not_exist(tmp_path: Path) -> None:
    source = Source(format="flickr8k", annotations=tmp_path / "t.txt", images=tmp_path / "gone")
    with pytest.raises(SohoError, match=r"images: .*gone does not exist"):
        load_captions(source)


def _karpathy_and_genome(tmp_path: Path) -> tuple[Source, Source]:
    """COCO's Karpathy file without any picture, and Visual Genome with three, two of which COCO has too."""
    rows = [
        {"cocoid": number, "filename": f"{number}.jpg", "split": split, "sentences": [{"sentid": number, "raw": "x"}]}
        for number, split in ((7, "train"), (8, "val"), (9, "test"))
    ]
    karpathy = write_json(tmp_path / "karpathy.json", {"dataset": "coco", "images": rows})
    write_pictures(tmp_path / "vg", ["1.jpg", "2.jpg", "3.jpg"])
    regions = [{"id": n, "regions": [{"region_id": n, "image_id": n, "phrase": f"dog {n}"}]} for n in (1, 2, 3)]
    coco_ids = {1: 7, 2: 8, 3: None}
    data = [{"image_id": n, "url": "", "width": 8, "height": 6, "coco_id": coco_ids[n]} for n in (1, 2, 3)]
    genome = Source(
        format="visual_genome",
        annotations=write_json(tmp_path / "regions.json", regions),
        image_data=write_json(tmp_path / "image_data.json", data),
        images=tmp_path / "vg",
    )
    return Source(format="karpathy", annotations=karpathy, images="not/there", split="val+test"), genome


def test_photographs_of_a_split_are_left_out_of_another_data_set(tmp_path: Path) -> None:
    coco, genome = _karpathy_and_genome(tmp_path)
    excluded = excluded_photographs([coco])  # its pictures are nowhere, and need not be
    assert excluded == {"coco:8", "coco:9"}
    kept, remark = leave_out(load_captions(genome)[0], excluded)
    assert [example.photo_key for example in kept] == ["coco:7", "vg:3"]
    assert remark == "1 photograph left out because of data.exclude"
    assert leave_out(kept, excluded) == (kept, "")


def test_the_data_check_leaves_out_what_training_leaves_out(tmp_path: Path) -> None:
    coco, genome = _karpathy_and_genome(tmp_path)
    report = check({"train": [genome], "validation": [genome]}, "pretraining", exclude=[coco])
    train, validation = report.counts
    assert (train.images, train.left_out, validation.images) == (2, 1, 3)
    shared = next(problem for problem in report.problems if "in both" in problem.message)
    assert "2 photographs in both" in shared.message  # 1 and 3; photograph 2 is no longer in train
    unread = coco.model_copy(update={"annotations": tmp_path / "absent.json"})
    report = check({"train": [genome]}, "pretraining", exclude=[unread])
    assert [problem.where for problem in report.problems if problem.fatal] == ["exclude"]


def test_a_training_source_of_which_nothing_stays(tmp_path: Path) -> None:
    _, genome = _karpathy_and_genome(tmp_path)
    report = check({"train": [genome]}, "pretraining", exclude=[genome])
    assert [problem.message for problem in report.problems if problem.fatal] == [
        "nothing is left: 3 photographs left out because of data.exclude"
    ]
