"""What data check says about photographs that pre-training must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soho.data.check import check
from soho.data.sources import Source
from tests.unit.data.pictures import write_json, write_pictures


@pytest.fixture
def genome(tmp_path: Path) -> Source:
    """Visual Genome with four photographs; COCO has three of them, as 7, 8 and 9."""
    write_pictures(tmp_path / "vg", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    regions = [{"id": n, "regions": [{"region_id": n, "image_id": n, "phrase": f"dog {n}"}]} for n in (1, 2, 3, 4)]
    coco_ids = {1: 7, 2: 8, 3: 9, 4: None}
    data = [{"image_id": n, "url": "", "width": 8, "height": 6, "coco_id": coco_ids[n]} for n in (1, 2, 3, 4)]
    return Source(
        format="visual_genome",
        annotations=write_json(tmp_path / "regions.json", regions),
        image_data=write_json(tmp_path / "image_data.json", data),
        images=tmp_path / "vg",
    )


@pytest.fixture
def karpathy(tmp_path: Path) -> Source:
    rows = [
        {"cocoid": number, "filename": f"{number}.jpg", "split": split, "sentences": [{"sentid": number, "raw": "x"}]}
        for number, split in ((7, "train"), (8, "val"), (9, "test"), (10, "test"))
    ]
    content = {"dataset": "coco", "images": rows}
    path = write_json(tmp_path / "karpathy.json", content)
    return Source(format="karpathy", annotations=path, images="not/there", split="val+test", name="karpathy_coco")


@pytest.fixture
def flickr8k(tmp_path: Path) -> Source:
    write_pictures(tmp_path / "f8k", ["11_a.jpg", "12_b.jpg", "13_c.jpg"])
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("11_a.jpg#0\tone\n12_b.jpg#0\ttwo\n13_c.jpg#0\tthree\n")
    return Source(format="flickr8k", annotations=tokens, images=tmp_path / "f8k")


def said(task: str = "pretraining", **sections: Any) -> list[str]:
    exclude = sections.pop("exclude", ())
    report = check(sections, task, decode=False, exclude=exclude)
    assert report.sound
    return report.lines()


def test_what_each_entry_left_out_is_counted(
    genome: Source, flickr8k: Source, karpathy: Source, tmp_path: Path
) -> None:
    listed = tmp_path / "apart.txt"
    listed.write_text("12\n99\n")
    photographs = Source(format="photo_list", annotations=listed, photos_of="flickr", name="apart")
    nothing = photographs.model_copy(update={"name": "elsewhere", "photos_of": "coco"})
    lines = said(train=[genome, flickr8k], exclude=[karpathy, photographs, nothing])
    text = "\n".join(lines)
    # Two of the three photographs of Karpathy's val and test are in Visual Genome.
    assert "exclude, karpathy_coco: " in text
    assert "karpathy.json names 3 photographs, of which train held 2 (visual_genome); left out" in text
    assert "apart.txt names 2 photographs, of which train held 1 (flickr8k); left out" in text
    assert "exclude, elsewhere: " in text
    assert "apart.txt names 2 photographs, none of which train holds" in text
    assert [line.strip() for line in lines if line.strip() in ("coco:8", "coco:9", "flickr:12")] == [
        "coco:8",
        "coco:9",
        "flickr:12",
    ]
    assert next(line for line in lines if line.startswith("train")).split()[2:4] == ["2", "2"]
    assert "before COCO retrieval" not in text
    assert "before Flickr30k retrieval" not in text


def test_known_leaks_that_nothing_stops(genome: Source, flickr8k: Source) -> None:
    text = "\n".join(said(train=[genome, flickr8k]))
    assert "train, visual_genome: 3 photographs of Visual Genome are in COCO too" in text
    assert "exclude these before COCO retrieval or VQA is measured (data.exclude)" in text
    assert "train, flickr8k: 3 photographs of Flickr8k, nearly all of which are in Flickr30k" in text


def test_fine_tuning_data_are_no_leak(flickr8k: Source) -> None:
    assert "nearly all of which" not in "\n".join(said("retrieval", train=[flickr8k]))


def test_coco_photographs_of_val2014(tmp_path: Path) -> None:
    names = ["COCO_train2014_000000000001.jpg", "COCO_val2014_000000000002.jpg"]
    write_pictures(tmp_path / "coco", names)
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)],
        "annotations": [{"image_id": number, "id": number, "caption": f"dog {number}"} for number in (1, 2)],
    }
    coco = Source(format="coco", annotations=write_json(tmp_path / "c.json", content), images=tmp_path / "coco")
    assert "train, coco: 1 photograph of COCO's val2014, which holds" in "\n".join(said(train=[coco]))


def test_an_entry_that_cannot_be_read_does_not_hide_the_others(genome: Source, karpathy: Source) -> None:
    gone = Source(format="photo_list", annotations="gone.tsv", photos_of="coco")
    report = check({"train": [genome]}, "pretraining", decode=False, exclude=[gone, karpathy])
    assert not report.sound
    text = "\n".join(report.lines())
    assert "ERROR  exclude: gone.tsv does not exist" in text
    assert "of which train held 2 (visual_genome); left out" in text
