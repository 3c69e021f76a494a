"""The files of the embedded world."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from soho.data.miniature import MiniatureSummary, generate, load_world
from soho.data.miniature.snli_ve import has_crate, judge
from soho.errors import SohoError
from soho.evaluation.reasoning_metrics import sentence_group
from tests.support import shared_data

SIZES = {"train_images": 150, "validation_images": 40, "test_images": 60}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MiniatureSummary]:
    out = tmp_path_factory.mktemp("miniature")
    return out, generate(out, **SIZES, seed=3, workers=1, progress=False)


def _read(world: tuple[Path, MiniatureSummary], name: str) -> Any:
    return json.loads((world[0] / "annotations" / name).read_text())


def _lines(world: tuple[Path, MiniatureSummary], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world[0] / "annotations" / name).read_text().splitlines()]


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _same_fields(ours: Any, theirs: Any, where: str = "") -> None:
    """Check that both have the same keys and types, following the first element of lists."""
    if theirs is None or ours is None:
        return
    assert type(ours) is type(theirs), where
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), where
        for key in theirs:
            _same_fields(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list) and theirs and ours:
        _same_fields(ours[0], theirs[0], where + "[0]")


def test_same_seed_same_bytes_with_two_workers(world, tmp_path: Path) -> None:
    generate(tmp_path, **SIZES, seed=3, workers=2, progress=False)
    assert _digests(tmp_path) == _digests(world[0])


def test_another_seed_is_another_world(world, tmp_path: Path) -> None:
    generate(tmp_path, train_images=4, validation_images=0, test_images=0, seed=4, workers=1, progress=False)
    name = "images/train2014/COCO_train2014_000000000001.jpg"
    assert (tmp_path / name).read_bytes() != (world[0] / name).read_bytes()


def test_zip_holds_the_same_pictures(world, tmp_path: Path) -> None:
    generate(tmp_path, **SIZES, seed=3, workers=1, progress=False, zipped=True)
    assert not (tmp_path / "images").exists()
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        inside = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    assert inside == _digests(world[0] / "images")


def test_summary_counts_what_the_files_hold(world) -> None:
    summary = world[1]
    assert summary.images == {"train": 150, "val": 40, "test": 60}
    assert summary.captions == {"train": 750, "val": 200, "test": 300}
    assert len(_read(world, "captions_val2014.json")["annotations"]) == 500
    for split, count in summary.questions.items():
        assert len(_read(world, f"v2_OpenEnded_mscoco_{split}2014_questions.json")["questions"]) == count > 80
        assert summary.question_only[split] < 0.45
    assert len(_lines(world, "nlvr2_train.json")) == summary.nlvr2["train"] > 0
    assert len(_lines(world, "snli_ve_test.jsonl")) == summary.snli_ve["test"] > 0
    assert any("held out" in line for line in summary.lines())


def test_coco_fields(world) -> None:
    sample = json.loads(shared_data("samples/coco_captions/captions_val2014.sample.json").read_text())
    _same_fields(_read(world, "captions_train2014.json"), sample)


def test_karpathy_fields_and_splits(world) -> None:
    data = _read(world, "dataset_coco.json")
    assert data["dataset"] == "coco"
    assert Counter(image["split"] for image in data["images"]) == {"train": 150, "val": 40, "test": 60}
    assert [image["imgid"] for image in data["images"]] == list(range(250))
    sentids = [sentence["sentid"] for image in data["images"] for sentence in image["sentences"]]
    assert sentids == list(range(1250))
    for image in data["images"]:
        assert (world[0] / "images" / image["filepath"] / image["filename"]).is_file()
        assert image["filepath"] == ("train2014" if image["split"] == "train" else "val2014")
        for sentence in image["sentences"]:
            assert sentence["tokens"] == re.findall(r"[a-z0-9]+", sentence["raw"].lower())
    sample = json.loads(shared_data("samples/karpathy/dataset_flickr8k.sample.json").read_text())
    record = dict(data["images"][0])
    assert record.pop("cocoid") == 1
    record.pop("filepath")  # these two are in the COCO file alone
    _same_fields(record, sample["images"][0])


def test_visual_genome_fields_and_boxes(world) -> None:
    found, images = _read(world, "region_descriptions.json"), _read(world, "image_data.json")
    assert len(found) == len(images) == 150  # training pictures only
    by_id = {image["image_id"]: image for image in images}
    assert {image["coco_id"] for image in images} == set(range(1, 151))
    assert not set(by_id) & set(range(1, 251))
    for record in found:
        image = by_id[record["id"]]
        for region in record["regions"]:
            assert region["x"] >= 0
            assert region["y"] >= 0
            assert region["width"] > 30
            assert region["height"] > 30
            assert region["x"] + region["width"] <= image["width"]
            assert region["y"] + region["height"] <= image["height"]
    name = images[0]["url"].rsplit("/", 1)[1]
    coco = world[0] / "images/train2014/COCO_train2014_000000000001.jpg"
    assert (world[0] / "images/VG_100K" / name).read_bytes() == coco.read_bytes()
    folder = "samples/visual_genome"
    _same_fields(found, json.loads(shared_data(f"{folder}/region_descriptions.sample.json").read_text()))
    _same_fields(images, json.loads(shared_data(f"{folder}/image_data.sample.json").read_text()))


def test_vqa_fields(world) -> None:
    folder = "samples/vqa_v2"
    questions = _read(world, "v2_OpenEnded_mscoco_val2014_questions.json")
    annotations = _read(world, "v2_mscoco_val2014_annotations.json")
    _same_fields(
        questions, json.loads(shared_data(f"{folder}/v2_OpenEnded_mscoco_val2014_questions.sample.json").read_text())
    )
    _same_fields(
        annotations, json.loads(shared_data(f"{folder}/v2_mscoco_val2014_annotations.sample.json").read_text())
    )


def test_vqa_files_fit_together(world) -> None:
    splits = {image["cocoid"]: image["split"] for image in _read(world, "dataset_coco.json")["images"]}
    seen: set[int] = set()
    for split in ("train", "val", "test"):
        questions = _read(world, f"v2_OpenEnded_mscoco_{split}2014_questions.json")
        annotations = _read(world, f"v2_mscoco_{split}2014_annotations.json")["annotations"]
        ids = [row["question_id"] for row in questions["questions"]]
        assert ids == [row["question_id"] for row in annotations]
        assert len(set(ids)) == len(ids)
        assert not seen & set(ids)
        seen |= set(ids)
        for row, answer in zip(questions["questions"], annotations, strict=True):
            assert splits[row["image_id"]] == split
            name = f"COCO_{questions['data_subtype']}_{row['image_id']:012d}.jpg"
            assert (world[0] / "images" / questions["data_subtype"] / name).is_file()
            votes = Counter(one["answer"] for one in answer["answers"])
            assert votes.most_common(1)[0][0] == answer["multiple_choice_answer"]
            assert sum(votes.values()) == 10


def test_nlvr2_fields_and_balance(world) -> None:
    for split in ("train", "dev", "test1"):
        labels: dict[str, list[str]] = defaultdict(list)
        for line in _lines(world, f"nlvr2_{split}.json"):
            labels[sentence_group(line["identifier"])].append(line["label"])
            assert re.fullmatch(rf"{split}-\d+-\d-\d", line["identifier"])
            for side in (0, 1):
                name = line["identifier"].rsplit("-", 1)[0] + f"-img{side}.png"
                with Image.open(world[0] / "images/nlvr2" / name) as picture:
                    assert picture.format == "PNG"
        assert all(sorted(values) == ["False", "False", "True", "True"] for values in labels.values())
    sample = json.loads(shared_data("samples/nlvr2/dev.sample.json").read_text().splitlines()[0])
    ours = _lines(world, "nlvr2_dev.json")[0]
    assert set(ours) == set(sample)
    assert all(isinstance(ours[key], type(sample[key])) for key in sample)


def test_snli_ve_fields_balance_and_truth(world) -> None:
    record = json.loads((world[0] / "world.json").read_text())
    scenes = {scene["image_id"]: scene for scene in record["snli_ve_scenes"]}
    places = "meadow|beach|desert|snow|city|space"
    for split in ("train", "dev", "test"):
        labels: dict[str, set[str]] = defaultdict(set)
        pair_ids = []
        for line in _lines(world, f"snli_ve_{split}.jsonl"):
            labels[line["sentence2"]].add(line["gold_label"])
            pair_ids.append(line["pairID"])
            assert (world[0] / "images/flickr30k-images" / f"{line['Flickr30K_ID']}.jpg").is_file()
            scene = scenes[int(line["Flickr30K_ID"])]
            named = re.search(r" an? (\w+) (\w+)", " " + line["sentence2"])
            place = re.search(rf"({places})", line["sentence2"])
            seen = [(thing["color"], thing["kind"]) for thing in scene["things"] if thing["kind"] != "crate"]
            if place and place.group() != scene["background"]:
                expected = "contradiction"
            elif named and named.groups() in seen:
                expected = "entailment"
            else:  # not seen: open where something is hidden
                expected = "neutral" if len(seen) < len(scene["things"]) else "contradiction"
            assert line["gold_label"] == expected
        assert all(values == {"entailment", "neutral", "contradiction"} for values in labels.values())
        assert len(set(pair_ids)) == len(pair_ids)
    sample = json.loads(shared_data("samples/snli_ve/snli_ve.sample.jsonl").read_text().splitlines()[0])
    _same_fields(_lines(world, "snli_ve_dev.jsonl")[0], sample)


def test_snli_ve_judgement_by_hand(world) -> None:
    scene = load_world(world[0]).scenes[1]
    pair = scene.things[0].pair
    assert not has_crate(scene)
    assert judge(scene, pair, None) == judge(scene, pair, scene.background) == "entailment"
    assert judge(scene, ("red", "anchor"), None) == "contradiction"
    assert judge(scene, pair, "the moon") == "contradiction"


def test_held_out_pairs_are_in_no_training_text(world) -> None:
    texts = [row["caption"] for row in _read(world, "captions_train2014.json")["annotations"]]
    texts += [region["phrase"] for record in _read(world, "region_descriptions.json") for region in record["regions"]]
    texts += [row["question"] for row in _read(world, "v2_OpenEnded_mscoco_train2014_questions.json")["questions"]]
    texts += [row["sentence"] for row in _lines(world, "nlvr2_train.json")]
    texts += [row[key] for row in _lines(world, "snli_ve_train.jsonl") for key in ("sentence1", "sentence2")]
    assert len(texts) > 2000
    for color, kind in world[1].held_out:
        assert not [text for text in texts if f"{color} {kind}" in text.lower()]


def test_texts_hold_no_ids(world) -> None:
    texts = [row["caption"] for row in _read(world, "captions_val2014.json")["annotations"]]
    texts += [row["question"] for row in _read(world, "v2_OpenEnded_mscoco_test2014_questions.json")["questions"]]
    texts += [row["sentence"] for row in _lines(world, "nlvr2_dev.json")]
    assert not [text for text in texts if re.search(r"\d", text)]


def test_world_json_reads_back(world) -> None:
    read = load_world(world[0])
    assert (read.seed, read.held_out) == (3, world[1].held_out)
    assert len(read.scenes) == 250
    sizes = {
        image["id"]: (image["width"], image["height"]) for image in _read(world, "captions_val2014.json")["images"]
    }
    assert all(read.scenes[number].shape == size for number, size in sizes.items())
    assert set(read.question_families.values()) <= {
        "color", "color_at", "kind_at", "kind_of", "count", "exists", "exists_pair", "relation", "texture",
        "size", "place",
    }  # fmt: skip
    assert len(read.question_families) == sum(world[1].questions.values())


def test_pictures_have_the_stated_size(world) -> None:
    for image in _read(world, "captions_train2014.json")["images"][:20]:
        data = (world[0] / "images/train2014" / image["file_name"]).read_bytes()
        assert Image.open(io.BytesIO(data)).size == (image["width"], image["height"])


def test_a_smaller_world_replaces_a_larger_one(tmp_path: Path) -> None:
    for count in (6, 3):
        generate(tmp_path, train_images=count, validation_images=0, test_images=0, workers=1, progress=False)
    assert len(list((tmp_path / "images/train2014").iterdir())) == 3


def test_foreign_folders_are_left_alone_and_interrupted_runs_can_be_repeated(tmp_path: Path) -> None:
    photos = tmp_path / "images"
    photos.mkdir()
    (photos / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(SohoError, match="holds other files"):
        generate(tmp_path, train_images=1, progress=False)
    assert (photos / "mine.jpg").read_bytes() == b"mine"
    (tmp_path / "world.json").write_text('{"unfinished": true}')  # what an interrupted run leaves
    with pytest.raises(SohoError, match="not the record of a finished"):
        load_world(tmp_path)
    generate(tmp_path, train_images=1, validation_images=0, test_images=0, workers=1, progress=False)
    assert not (photos / "mine.jpg").exists()
    assert len(load_world(tmp_path).scenes) == 1


def test_bad_requests_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match="train_images is -1"):
        generate(tmp_path / "a", train_images=-1, progress=False)
    with pytest.raises(SohoError, match="at least one picture"):
        generate(tmp_path / "a", train_images=0, validation_images=0, test_images=0, progress=False)
    (tmp_path / "mine.txt").write_text("do not delete")
    with pytest.raises(SohoError, match="holds other files"):
        generate(tmp_path, train_images=1, progress=False)
    with pytest.raises(SohoError, match=r"world\.json is missing"):
        load_world(tmp_path)
    (tmp_path / "world.json").write_text("{}")
    with pytest.raises(SohoError, match="not the record of a finished embedded world"):
        load_world(tmp_path)
    (tmp_path / "world.json").write_text('{"version": 1}')
    with pytest.raises(SohoError, match=r"is of version 1 of the embedded world, expected \d+; draw it again"):
        load_world(tmp_path)
