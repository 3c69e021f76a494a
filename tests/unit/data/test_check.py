from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from soho.data.check import check
from soho.data.check_report import CheckReport, Problem
from soho.data.sources import Source, load_captions, load_hypotheses, load_questions, load_statements
from tests.unit.data.pictures import write_json, write_jsonl, write_picture, write_pictures


def _own(folder: Path, count: int, start: int = 0, **more: Any) -> Source:
    """Pictures with distinct content and two captions each."""
    names = [f"{start + index}.png" for index in range(count)]
    for index, name in enumerate(names):
        write_picture(folder / name, size=(10 + start + index, 7))
    rows = [{"image": name, "captions": ["a dog", "a dog on the grass"]} for name in names]
    return Source(format="jsonl", annotations=write_jsonl(folder / "own.jsonl", rows), **more)


def _words(text: str) -> int:
    return len(text.split()) + 2


def _fatal(report: CheckReport) -> list[str]:
    return [f"{problem.where}: {problem.message}" for problem in report.problems if problem.fatal]


def test_sound_data(tmp_path: Path) -> None:
    sections = {"train": [_own(tmp_path / "a", 3)], "test": [_own(tmp_path / "b", 2, start=50)]}
    report = check(sections, "retrieval", _words, text_length=5)
    assert report.sound
    assert report.problems == []
    train, test = report.counts
    assert (train.images, train.texts, train.measured, train.cut) == (3, 6, 6, 3)
    assert (test.images, test.texts, test.missing, test.broken) == (2, 4, 0, 0)
    assert (report.images_read, report.smallest, report.largest) == (5, (10, 7), (61, 7))
    lines = report.lines()
    assert lines[:4] == [
        "section  source  images  captions  per image  missing  broken  left out  cut at 5",
        "-------  ------  ------  --------  ---------  -------  ------  --------  --------",
        "train    jsonl        3         6        2.0        0       0         0    50.0 %",
        "test     jsonl        2         4        2.0        0       0         0    50.0 %",
    ]
    assert lines[-1] == "Sound: retrieval can start on this data."


def test_statements_about_two_pictures(tmp_path: Path) -> None:
    names = [f"dev-1-{pair}-img{side}.png" for pair in (0, 1) for side in (0, 1)]
    write_pictures(tmp_path / "images", [*names[:3], "train-1-0-img0.png", "train-1-0-img1.png"])
    (tmp_path / "images" / names[1]).write_bytes((tmp_path / "images" / "train-1-0-img1.png").read_bytes())
    rows = [{"identifier": f"dev-1-{pair}-0", "sentence": "two red dogs", "label": "True"} for pair in (0, 1)]
    train = [{"identifier": "train-1-0-0", "sentence": "a dog", "label": "False"}]
    sections = {
        name: [Source(format="nlvr2", annotations=write_jsonl(tmp_path / f"{name}.json", lines), images=[tmp_path])]
        for name, lines in (("train", train), ("validation", rows))
    }
    report = check(sections, "nlvr2", _words, text_length=4, load=load_statements)
    assert [(count.images, count.texts, count.cut, count.missing) for count in report.counts] == [
        (2, 1, 0, 0),
        (2, 1, 1, 1),  # the second row's right picture is not there
    ]
    assert "statements" in report.lines()[0]
    fatal = _fatal(report)
    assert [sentence for sentence in fatal if "1 image not found" in sentence]
    assert [sentence for sentence in fatal if "1 picture with the same bytes in both" in sentence]
    assert len(fatal) == 2


def test_hypotheses_and_their_photographs(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["1.jpg", "2.jpg"])
    row = {"gold_label": "neutral", "sentence2": "a dog"}
    rows = {"train": ["1", "1", "2"], "test": ["2"]}
    sections = {}
    for name, photos in rows.items():
        lines = [{**row, "Flickr30K_ID": photo, "pairID": f"{photo}#{place}"} for place, photo in enumerate(photos)]
        path = write_jsonl(tmp_path / f"{name}.jsonl", [*lines, {**row, "Flickr30K_ID": "1", "gold_label": "-"}])
        sections[name] = [Source(format="snli_ve", annotations=path, images=[tmp_path / "images"])]
    report = check(sections, "snli_ve", load=load_hypotheses)
    assert [(count.images, count.texts, count.left_out) for count in report.counts] == [(2, 3, 1), (1, 1, 1)]
    assert "hypotheses" in report.lines()[0]
    assert _fatal(report) == [
        "train and test: 1 photograph in both; the result would be measured on photographs that were trained on"
    ]
    clean = check(sections, "snli_ve", exclude=sections["test"], load=load_hypotheses)
    assert clean.sound
    assert (clean.counts[0].images, clean.counts[0].left_out) == (1, 2)


def test_missing_images_by_policy(tmp_path: Path) -> None:
    source = _own(tmp_path, 12)
    for index in range(7):
        (tmp_path / f"{index}.png").unlink()
    report = check({"train": [source]}, "pretraining")
    assert not report.sound
    assert _fatal(report) == [
        f"train, jsonl: 7 images not found in {tmp_path}; on_missing: skip leaves out what is missing"
    ]
    lines = report.lines()
    start = next(index for index, line in enumerate(lines) if line.startswith("ERROR"))
    assert [line.strip() for line in lines[start + 1 : start + 7]] == [
        *(f"{index}.png" for index in range(5)),
        "... and 2 more",
    ]
    assert lines[-1] == "Not sound: 1 error above must be mended first."
    assert report.counts[0].missing == 7
    skipping = check({"train": [source.model_copy(update={"on_missing": "skip"})]}, "pretraining")
    assert skipping.sound
    assert [problem.message for problem in skipping.problems] == [f"7 images not found in {tmp_path}, left out"]


def test_broken_pictures_are_tolerated_up_to_one_in_a_hundred(tmp_path: Path) -> None:
    source = _own(tmp_path, 200)
    for index, sound in ((0, True), (1, True), (2, False)):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
        report = check({"train": [source]}, "pretraining")
        assert report.sound is sound
        assert report.counts[0].broken == index + 1
        assert report.problems[0].total == index + 1
        assert f"{index}.png: is not a picture" in report.problems[0].examples[index]


def test_headers_alone_do_not_show_a_cut_picture(tmp_path: Path) -> None:
    source = _own(tmp_path, 2)
    noise = Image.effect_noise((64, 64), 90)
    noise.save(tmp_path / "0.png")
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:900])
    assert check({"train": [source]}, "pretraining", decode=False).sound
    assert not check({"train": [source]}, "pretraining").sound


def test_a_source_that_cannot_be_read_is_told_with_its_rows(tmp_path: Path) -> None:
    _own(tmp_path, 2)
    path = write_jsonl(
        tmp_path / "own.jsonl", [{"image": "0.png", "caption": ""}, "{", {"image": "x.png", "caption": "x"}]
    )
    report = check({"train": [Source(format="jsonl", annotations=path)]}, "pretraining")
    assert not report.sound
    lines = report.lines()
    start = lines.index(f"ERROR  train, jsonl: {path}: 3 broken rows:")
    assert lines[start + 1] == f'         {path}:1: "caption" is empty'
    assert lines[start + 3].startswith(f'         {path}:3: the image "x.png" is not in ')


def test_empty_captions_by_policy(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.jpg", "2.jpg"])
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 8, "height": 6}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"image_id": k, "id": k, "caption": f"number {k}"} for k in (1, 2)],
    }
    content["annotations"].append({"image_id": 1, "id": 3, "caption": " "})
    path = write_json(tmp_path / "c.json", content)
    source = Source(format="coco", annotations=path, images=str(tmp_path))
    report = check({"train": [source]}, "retrieval")
    assert _fatal(report) == ["train, coco: 1 x empty caption; on_missing: skip leaves out what is missing"]
    assert report.problems[0].examples == ["caption 3"]
    assert check({"train": [source.model_copy(update={"on_missing": "skip"})]}, "retrieval").sound


def test_sizes_that_differ_from_the_annotations_are_noted(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.jpg", "2.jpg"])
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 8, "height": 6 * k} for k in (1, 2)],
        "annotations": [{"image_id": k, "id": k, "caption": f"number {k}"} for k in (1, 2)],
    }
    source = Source(format="coco", annotations=write_json(tmp_path / "c.json", content), images=str(tmp_path))
    report = check({"train": [source]}, "retrieval")
    assert report.sound
    assert report.problems[0].examples == [f"{tmp_path / '2.jpg'}: 8x6, annotated 8x12"]


def test_records_that_are_none_of_the_schema_are_told(tmp_path: Path) -> None:
    source = _own(tmp_path, 2)
    report = check({"train": [source]}, "my:Task", load=lambda one: (["a"], load_captions(one)[1]))  # type: ignore[list-item]
    assert _fatal(report) == [
        f"train, jsonl: {source.place} is read as str, but only the records of soho.data.schema can be checked"
    ]
    assert "texts" in report.lines()[0]


def test_the_same_source_twice(tmp_path: Path) -> None:
    source = _own(tmp_path, 3)
    report = check({"train": [source, source]}, "pretraining")
    assert _fatal(report) == ["train: the same id of the same photograph is listed more than once"]
    assert report.problems[0].total == 3
    assert report.images_read == 3


def test_equal_names_in_two_folders_are_two_photographs(tmp_path: Path) -> None:
    one, two = _own(tmp_path / "a", 3), _own(tmp_path / "b", 3)
    for index in range(3):  # other content
        write_picture(tmp_path / "b" / f"{index}.png", size=(90 + index, 9))
    report = check({"train": [one], "validation": [two]}, "pretraining")
    assert report.sound
    assert [(problem.where, problem.total) for problem in report.problems] == [("train and validation", 3)]
    assert "3 file names in both, with another content" in report.problems[0].message
    assert check({"train": [one, two]}, "pretraining").sound


def test_overlap_by_photo_key(tmp_path: Path) -> None:
    write_pictures(tmp_path / "vg", ["1.jpg", "2.jpg"])
    write_picture(tmp_path / "coco" / "COCO_val2014_000000000077.jpg", size=(30, 20))
    regions = [{"id": k, "regions": [{"region_id": k, "phrase": "x"}]} for k in (1, 2)]
    data = [{"image_id": 1, "coco_id": 77}, {"image_id": 2, "coco_id": None}]
    genome = Source(
        format="visual_genome",
        annotations=write_json(tmp_path / "vg.json", regions),
        image_data=write_json(tmp_path / "data.json", data),
        images=str(tmp_path / "vg"),
    )
    captions = {
        "images": [{"id": 77, "file_name": "COCO_val2014_000000000077.jpg"}],
        "annotations": [{"image_id": 77, "id": 1, "caption": "x"}],
    }
    coco = Source(
        format="coco", annotations=write_json(tmp_path / "coco.json", captions), images=str(tmp_path / "coco")
    )
    report = check({"train": [genome], "test": [coco]}, "pretraining")
    assert _fatal(report) == [
        "train and test: 1 photograph in both; the result would be measured on photographs that were trained on"
    ]
    assert report.problems[-1].examples == [f"coco:77 ({tmp_path / 'vg' / '1.jpg'})"]
    report = check({"validation": [genome], "test": [coco]}, "pretraining")  # no training photograph among them
    assert ("validation and test", False) in [(problem.where, problem.fatal) for problem in report.problems]
    assert report.sound


def test_overlap_by_bytes_under_other_names(tmp_path: Path) -> None:
    train, test = _own(tmp_path / "a", 3), _own(tmp_path / "b", 2, start=60)
    (tmp_path / "b" / "61.png").write_bytes((tmp_path / "a" / "2.png").read_bytes())
    report = check({"train": [train], "test": [test]}, "retrieval")
    assert len(_fatal(report)) == 1
    assert "1 picture with the same bytes in both, under other names" in _fatal(report)[0]
    assert report.problems[0].examples == [f"{tmp_path / 'a' / '2.png'} = {tmp_path / 'b' / '61.png'}"]
    inside = check({"train": [train, test]}, "retrieval")
    assert inside.sound
    assert "same bytes count as different photographs" in inside.problems[0].message


def test_a_single_photograph_has_no_negatives(tmp_path: Path) -> None:
    report = check({"train": [_own(tmp_path, 1)]}, "pretraining")
    assert _fatal(report) == ["train: only one photograph: no caption can serve as a negative"]


def test_questions(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.jpg", "b.jpg"])
    rows = [
        {"image": "a.jpg", "question": "What is this?", "answers": ["A cat.", "cat"]},
        {"image": "a.jpg", "question": "How many?", "answer": "two"},
        {"image": "b.jpg", "question": "What is that?", "answer": "cat"},
        {"image": "b.jpg", "question": "Why?"},
    ]
    source = Source(format="jsonl", annotations=write_jsonl(tmp_path / "own.jsonl", rows))
    report = check({"train": [source]}, "vqa", _words, text_length=4, load=load_questions)
    count = report.counts[0]
    assert (count.images, count.texts, count.answers, count.unanswered, count.cut) == (2, 4, 2, 1, 2)
    assert _fatal(report) == ["train, jsonl: 1 question without an answer that is more than punctuation"]
    assert report.lines()[0].split("  ")[:3] == ["section", "source", "images"]
    assert check({"test": [source]}, "vqa", load=load_questions).sound  # answers of test questions may be withheld


def test_a_source_of_the_wrong_kind_and_no_training_data(tmp_path: Path) -> None:
    source = Source(format="flickr8k", annotations="t.txt", images=str(tmp_path))
    report = check({"train": [source]}, "vqa", load=load_questions)
    assert "has captions, but questions are needed here" in _fatal(report)[0]
    assert _fatal(check({"train": []}, "vqa", load=load_questions)) == ["train: the recipe names no training data"]


def test_long_lists_are_cut_after_five() -> None:
    problem = Problem("train", "something", True, ["a", "b", "c", "d", "e", "f"], 9)
    assert problem.lines() == [
        "ERROR  train: something",
        *(f"         {name}" for name in "abcde"),
        "         ... and 4 more",
    ]
