"""The upstream annotation files, field by field, as plain values ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from soho.data.miniature.nlvr2 import PairExample
from soho.data.miniature.questions import Question, answer_type, question_type, ten_answers
from soho.data.miniature.scene import Scene
from soho.data.miniature.snli_ve import EntailmentExample
from soho.randomness import keyed_generator

Record = dict[str, Any]
SITE = "https://example.org/miniature"
DATE = "2024-01-01 00:00:00"
_LICENSE = {"url": "http://www.apache.org/licenses/LICENSE-2.0", "id": 1, "name": "Apache License 2.0"}


def year_folder(scene: Scene) -> str:
    """Return the COCO folder: validation and test pictures both lie in val2014, as in Karpathy's split."""
    return "train2014" if scene.split == "train" else "val2014"


def coco_name(scene: Scene) -> str:
    """Return the COCO file name of a scene's picture."""
    return f"COCO_{year_folder(scene)}_{scene.image_id:012d}.jpg"


def _info(description: str, version: str) -> Record:
    return {
        "description": description, "url": SITE, "version": version, "year": 2024,
        "contributor": "SOHO embedded world", "date_created": DATE,
    }  # fmt: skip


def coco_captions(scenes: Sequence[Scene], texts: Mapping[int, Sequence[str]]) -> Record:
    """Return a COCO caption file; `texts` maps image ids to captions, ids count up in order."""
    images = [
        {
            "license": 1, "file_name": coco_name(scene), "coco_url": f"{SITE}/{coco_name(scene)}",
            "height": scene.shape[1], "width": scene.shape[0], "date_captured": DATE,
            "flickr_url": f"{SITE}/{coco_name(scene)}", "id": scene.image_id,
        }
        for scene in scenes
    ]  # fmt: skip
    annotations = [
        {"image_id": scene.image_id, "id": 10 * scene.image_id + number, "caption": text}
        for scene in scenes
        for number, text in enumerate(texts[scene.image_id])
    ]
    return {
        "info": _info("Captions of the embedded world.", "1.0"), "images": images, "licenses": [_LICENSE],
        "annotations": annotations,
    }  # fmt: skip


def caption_tokens(text: str) -> list[str]:
    """Split a caption as Karpathy's files do: lower case, without punctuation."""
    return [word for word in "".join(c if c.isalnum() else " " for c in text.lower()).split() if word]


def karpathy(scenes: Sequence[Scene], texts: Mapping[int, Sequence[str]]) -> Record:
    """Return Karpathy's `dataset_coco.json`."""
    images, sentid = [], 0
    for imgid, scene in enumerate(scenes):
        sentences = []
        for text in texts[scene.image_id]:
            sentences.append({"tokens": caption_tokens(text), "raw": text, "imgid": imgid, "sentid": sentid})
            sentid += 1
        images.append(
            {
                "filepath": year_folder(scene), "sentids": [sentence["sentid"] for sentence in sentences],
                "filename": coco_name(scene), "imgid": imgid, "split": scene.split, "sentences": sentences,
                "cocoid": scene.image_id,
            }
        )  # fmt: skip
    return {"images": images, "dataset": "coco"}


FIRST_VISUAL_GENOME_ID = 2_300_001


def visual_genome_id(scene: Scene) -> int:
    """Return the Visual Genome id of a picture, different from its COCO id as upstream."""
    return FIRST_VISUAL_GENOME_ID + scene.image_id


def visual_genome_image(scene: Scene) -> Record:
    """Return a record of `image_data.json`, which names the COCO photograph it is."""
    number = visual_genome_id(scene)
    return {
        "image_id": number, "url": f"{SITE}/VG_100K/{number}.jpg", "width": scene.shape[0],
        "height": scene.shape[1], "coco_id": scene.image_id, "flickr_id": None,
    }  # fmt: skip


def visual_genome_regions(
    scene: Scene, phrases: Sequence[tuple[str, tuple[int, ...]]], boxes: Sequence[tuple[int, int, int, int]]
) -> Record:
    """Return a record of `region_descriptions.json`; a phrase's box is the union of the boxes of its things."""
    regions = []
    for offset, (phrase, indices) in enumerate(phrases):
        chosen = [boxes[index] for index in indices] or [(0, 0, *scene.shape)]
        x, y = min(box[0] for box in chosen), min(box[1] for box in chosen)
        right, bottom = max(box[0] + box[2] for box in chosen), max(box[1] + box[3] for box in chosen)
        regions.append(
            {
                "region_id": 100 * scene.image_id + offset, "width": right - x, "height": bottom - y,
                "image_id": visual_genome_id(scene), "phrase": phrase, "y": y, "x": x,
            }
        )  # fmt: skip
    return {"regions": regions, "id": visual_genome_id(scene)}


def vqa2(questions: Sequence[Question], subtype: str, seed: int) -> tuple[Record, Record, dict[int, str]]:
    """Return the questions file, the annotations file and the template family of every question id."""
    license_ = {key: _LICENSE[key] for key in ("url", "name")}
    asked, answered, families = [], [], {}
    per_image: Counter[int] = Counter()
    for question in questions:
        question_id = 1000 * question.image_id + per_image[question.image_id]
        per_image[question.image_id] += 1
        families[question_id] = question.family
        said = ten_answers(question, question_id, seed)
        asked.append({"image_id": question.image_id, "question": question.text, "question_id": question_id})
        answered.append(
            {
                "question_type": question_type(question.text), "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer": answer, "answer_confidence": sure, "answer_id": number}
                    for number, (answer, sure) in enumerate(said, start=1)
                ],
                "image_id": question.image_id, "answer_type": answer_type(question.answer),
                "question_id": question_id,
            }
        )  # fmt: skip
    info = _info("Questions of the embedded world, balanced as in VQA v2.0.", "2.0")
    common = {"info": info, "data_type": "mscoco", "license": license_, "data_subtype": subtype}
    return (
        {**common, "task_type": "Open-Ended", "questions": asked},
        {**common, "annotations": answered},
        families,
    )


def nlvr2_line(example: PairExample, seed: int) -> Record:
    """Return one line of an NLVR2 file."""
    rng = keyed_generator(seed, "nlvr2-writer", example.identifier)
    judges = [str(number) for number in rng.choice(200, size=5, replace=False)]
    label, other = str(example.label), str(not example.label)
    extra = dict.fromkeys(judges[1:], label)
    if rng.random() < 0.1:
        extra[judges[1]] = other
    left, right = example.image_names
    return {
        "validation": {judges[0]: label}, "sentence": example.sentence, "left_url": f"{SITE}/{left}",
        "writer": str(rng.integers(200)), "label": label, "right_url": f"{SITE}/{right}",
        "synset": example.topic, "query": f"group of {example.topic}{rng.integers(100)}",
        "identifier": example.identifier, "extra_validations": extra,
    }  # fmt: skip


def _binary_parse(words: Sequence[str]) -> str:
    """Return a right-branching binary parse in SNLI's notation."""
    if len(words) == 1:
        return words[0]
    return f"( {words[0]} {_binary_parse(words[1:])} )"


def _parses(sentence: str) -> tuple[str, str]:
    words = sentence.replace(".", " .").replace(",", " ,").split()
    flat = " ".join(f"({word if word in '.,' else 'X'} {word})" for word in words)
    return _binary_parse(words), f"(ROOT (S {flat}))"


def snli_ve_lines(examples: Sequence[EntailmentExample]) -> list[Record]:
    """Return the lines of an SNLI-VE file."""
    lines: list[Record] = []
    used: Counter[str] = Counter()
    for example in examples:
        photo = str(example.scene.image_id)
        caption_id = f"{photo}.jpg#{example.caption_number}"
        key = f"{caption_id}{example.label[0]}"
        used[key] += 1
        first, second = _parses(example.premise), _parses(example.hypothesis)
        lines.append(
            {
                "Flickr30K_ID": photo, "annotator_labels": [example.label], "captionID": caption_id,
                "gold_label": example.label, "pairID": f"{caption_id}r{used[key]}{example.label[0]}",
                "sentence1": example.premise, "sentence1_binary_parse": first[0], "sentence1_parse": first[1],
                "sentence2": example.hypothesis, "sentence2_binary_parse": second[0],
                "sentence2_parse": second[1],
            }
        )  # fmt: skip
    return lines
