"""Makes the whole embedded world and reads its `world.json` back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from soho.data.miniature import formats
from soho.data.miniature.captions import captions, regions
from soho.data.miniature.draw import boxes
from soho.data.miniature.nlvr2 import PairExample, pair_examples
from soho.data.miniature.questions import balanced_questions, question_only_accuracy
from soho.data.miniature.scene import Pair, Scene, Thing, held_out_pairs, sample_world
from soho.data.miniature.snli_ve import FIRST_CRATE, FIRST_PHOTO, crate_scenes, entailment_examples, shown_scenes
from soho.data.miniature.write import WORLD_FILE, ImageSink, Job, encoded, prepare_folder, write_json, write_lines
from soho.errors import SohoError

QUESTIONS_PER_IMAGE = {"train": 3.5, "val": 3.0, "test": 3.0}
# Of what is drawn and written for a seed; a folder of another version is drawn again.
VERSION = 2
_NLVR2_SPLITS = {"train": "train", "val": "dev", "test": "test1"}
_SNLI_VE_SPLITS = {"train": "train", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class MiniatureSummary:
    """What was written.

    Attributes:
        out: the folder.
        seed: seed of the world.
        images: pictures per Karpathy split.
        captions: captions per Karpathy split.
        regions: Visual Genome regions (training pictures only).
        questions: VQA v2 questions per Karpathy split.
        nlvr2: examples per upstream split.
        snli_ve: examples per upstream split.
        held_out: (color, kind) combinations which no training picture shows and no training text names.
        question_only: best accuracy without looking per split, in [0, 1]; see `question_only_accuracy`.
        seconds: time taken.
    """

    out: Path
    seed: int
    images: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)
    regions: int = 0
    questions: dict[str, int] = field(default_factory=dict)
    nlvr2: dict[str, int] = field(default_factory=dict)
    snli_ve: dict[str, int] = field(default_factory=dict)
    held_out: tuple[Pair, ...] = ()
    question_only: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Return the summary as lines for a terminal."""

        def counts(values: dict[str, int]) -> str:
            return ", ".join(f"{name} {count:,}" for name, count in values.items())

        best = ", ".join(f"{name} {value:.1%}" for name, value in self.question_only.items())
        return [
            f"embedded world (seed {self.seed}) in {self.out}, {self.seconds:.1f} s",
            f"  images     {counts(self.images)}",
            f"  captions   {counts(self.captions)}; regions {self.regions:,}",
            f"  questions  {counts(self.questions)} (best without looking: {best})",
            f"  NLVR2      {counts(self.nlvr2)}; SNLI-VE {counts(self.snli_ve)}",
            f"  held out   {', '.join(f'{color} {kind}' for color, kind in self.held_out)}",
        ]


@dataclass(frozen=True)
class World:
    """What `world.json` tells: the scene graph of every picture, by COCO id, and the template of every question."""

    seed: int
    held_out: tuple[Pair, ...]
    scenes: dict[int, Scene]
    question_families: dict[int, str]


@dataclass(frozen=True)
class _PairSizes:
    """How much NLVR2 and SNLI-VE take of a split of `count` pictures.

    NLVR2 reads the first `pool` pictures, because each is stored once more as PNG. SNLI-VE reads pictures of the split
    (`shown`) and draws `crates` more.
    """

    sets: int
    pool: int
    hypotheses: int
    shown: int
    crates: int

    @classmethod
    def of(cls, count: int) -> _PairSizes:
        if count == 0:
            return cls(0, 0, 0, 0, 0)
        crates = min(300, max(12, count // 4))
        return cls(min(400, max(4, count // 4)), 1000, min(2000, max(12, count)), 2 * crates, crates)


def _annotate(
    out: Path, scenes: Sequence[Scene], seed: int, held_out: tuple[Pair, ...]
) -> tuple[dict[str, Any], dict[int, str]]:
    """Write captions, regions and questions; return the summary's fields and the question families."""
    folder = out / "annotations"
    by_split = {split: [scene for scene in scenes if scene.split == split] for split in QUESTIONS_PER_IMAGE}
    texts = {scene.image_id: captions(scene, seed) for scene in scenes}
    write_json(folder / "captions_train2014.json", formats.coco_captions(by_split["train"], texts))
    unseen = by_split["val"] + by_split["test"]
    write_json(folder / "captions_val2014.json", formats.coco_captions(unseen, texts))
    write_json(folder / "dataset_coco.json", formats.karpathy(scenes, texts))
    found = [
        formats.visual_genome_regions(scene, regions(scene, seed), boxes(scene, seed)) for scene in by_split["train"]
    ]
    write_json(folder / "region_descriptions.json", found)
    write_json(folder / "image_data.json", [formats.visual_genome_image(scene) for scene in by_split["train"]])
    numbers: dict[str, int] = {}
    best: dict[str, float] = {}
    families: dict[int, str] = {}
    for split, members in by_split.items():
        forbidden = held_out if split == "train" else ()
        asked = balanced_questions(members, seed, QUESTIONS_PER_IMAGE[split], forbidden)
        subtype = "train2014" if split == "train" else "val2014"  # names the image files
        year = {"train": "train2014", "val": "val2014", "test": "test2014"}[split]
        questions, annotations, ids = formats.vqa2(asked, subtype, seed)
        write_json(folder / f"v2_OpenEnded_mscoco_{year}_questions.json", questions)
        write_json(folder / f"v2_mscoco_{year}_annotations.json", annotations)
        numbers[split], best[split] = len(asked), question_only_accuracy(asked)
        families |= ids
    fields = {
        "images": {split: len(members) for split, members in by_split.items()},
        "captions": {split: sum(len(texts[s.image_id]) for s in members) for split, members in by_split.items()},
        "regions": sum(len(record["regions"]) for record in found),
        "questions": numbers,
        "question_only": best,
    }
    return fields, families


def _pairs(
    out: Path, scenes: Sequence[Scene], seed: int, held_out: tuple[Pair, ...]
) -> tuple[dict[str, Any], list[PairExample], list[Scene]]:
    """Write NLVR2 and SNLI-VE; return the summary's fields, the NLVR2 pairs and the SNLI-VE scenes."""
    folder = out / "annotations"
    nlvr2: dict[str, int] = {}
    snli_ve: dict[str, int] = {}
    pairs: list[PairExample] = []
    photos: list[Scene] = []
    for split in QUESTIONS_PER_IMAGE:
        members = [scene for scene in scenes if scene.split == split]
        sizes = _PairSizes.of(len(members))
        examples = pair_examples(members[: sizes.pool], _NLVR2_SPLITS[split], sizes.sets, seed)
        name = _NLVR2_SPLITS[split]
        write_lines(folder / f"nlvr2_{name}.json", [formats.nlvr2_line(example, seed) for example in examples])
        nlvr2[name] = len(examples)
        pairs += examples
        pool = shown_scenes(members, sizes.shown)
        pool += crate_scenes(seed, split, sizes.crates, FIRST_CRATE + len(photos) + 1, held_out)
        entailed = entailment_examples(pool, sizes.hypotheses, seed)
        name = _SNLI_VE_SPLITS[split]
        write_lines(folder / f"snli_ve_{name}.jsonl", formats.snli_ve_lines(entailed))
        snli_ve[name] = len(entailed)
        photos += pool
    return {"nlvr2": nlvr2, "snli_ve": snli_ve}, pairs, photos


def _image_jobs(scenes: Sequence[Scene], pairs: Sequence[PairExample], entailment: Sequence[Scene]) -> list[Job]:
    """Return what to draw, every scene once; a scene that NLVR2 or SNLI-VE shows is written there as well."""
    jobs: dict[int, Job] = {}
    for scene in scenes:
        names = [f"{formats.year_folder(scene)}/{formats.coco_name(scene)}"]
        if scene.split == "train":
            names.append(f"VG_100K/{formats.visual_genome_id(scene)}.jpg")
        jobs[scene.image_id] = Job(scene, {"JPEG": names})
    for example in pairs:
        for name, scene in zip(example.image_names, (example.left, example.right), strict=True):
            names = jobs[scene.image_id].names.setdefault("PNG", [])
            if f"nlvr2/{name}" not in names:  # several sentences are about one pair
                names.append(f"nlvr2/{name}")
    for scene in entailment:
        name = f"flickr30k-images/{scene.image_id}.jpg"
        if scene.image_id - FIRST_PHOTO in jobs:
            jobs[scene.image_id - FIRST_PHOTO].names["JPEG"].append(name)
        else:
            jobs[scene.image_id] = Job(scene, {"JPEG": [name]})
    return list(jobs.values())


def generate(
    out: Path,
    *,
    train_images: int = 4000,
    validation_images: int = 300,
    test_images: int = 500,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    zipped: bool = False,
) -> MiniatureSummary:
    """Draw the embedded world and write it in the upstream file formats.

    Pictures go to `out/images/{train2014,val2014,VG_100K,nlvr2,flickr30k-images}`, annotations to
    `out/annotations/`, the scene graphs to `out/world.json` (written last). Equal arguments give equal bytes.

    Args:
        out: folder to write; an earlier embedded world in it is replaced.
        train_images: pictures of the training split.
        validation_images: pictures of Karpathy's val split.
        test_images: pictures of Karpathy's test split, in groups that differ in one attribute.
        seed: seed of every draw.
        workers: processes that draw; 0 or 1 draws in this one.
        progress: show a progress bar.
        zipped: write `out/images.zip` instead of the folder `out/images`.

    Raises:
        SohoError: if a number of pictures is negative, all are zero, or `out` holds other files.
    """
    started = time.perf_counter()
    wanted = {"train_images": train_images, "validation_images": validation_images, "test_images": test_images}
    for name, number in wanted.items():
        if number < 0:
            raise SohoError(f"{name} is {number}, expected zero or more")
    if not any(wanted.values()):
        raise SohoError("an embedded world needs at least one picture, but every split was asked to be empty")
    out = Path(out)
    prepare_folder(out)
    held_out = held_out_pairs(seed)
    scenes = sample_world(seed, train_images, validation_images, test_images, held_out)
    fields, families = _annotate(out, scenes, seed, held_out)
    pair_fields, pairs, entailment = _pairs(out, scenes, seed, held_out)
    jobs = _image_jobs(scenes, pairs, entailment)
    with ImageSink(out, zipped) as sink, tqdm(total=len(jobs), unit="image", disable=not progress) as bar:
        for job, files in zip(jobs, encoded(jobs, seed, workers), strict=True):
            for names, data in zip(job.names.values(), files, strict=True):
                sink.write(names, data)
            bar.update()
    record = {
        "version": VERSION,
        "seed": seed,
        "held_out": held_out,
        **fields,
        **pair_fields,
        "question_families": families,
        "scenes": [scene.record() for scene in scenes],
        "snli_ve_scenes": [scene.record() for scene in entailment],
    }
    write_json(out / WORLD_FILE, record)
    return MiniatureSummary(
        out=out, seed=seed, held_out=held_out, seconds=time.perf_counter() - started, **fields, **pair_fields
    )


def _scene(record: dict[str, Any]) -> Scene:
    things = tuple(Thing(**thing) for thing in record["things"])
    tuples = {name: tuple(record[name]) for name in ("shape", "order", "focus", "axes")}
    return Scene(**{**record, **tuples, "things": things})


def load_world(out: Path) -> World:
    """Read `world.json`.

    Raises:
        SohoError: if it is missing or not the record of an embedded world.
    """
    path = Path(out) / WORLD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise SohoError(
                f"{path} is of version {record['version']} of the embedded world, expected {VERSION}; draw it again "
                f"with `soho data miniature {out}`"
            )
        return World(
            seed=record["seed"],
            held_out=tuple((color, kind) for color, kind in record["held_out"]),
            scenes={scene["image_id"]: _scene(scene) for scene in record["scenes"]},
            question_families={int(key): family for key, family in record["question_families"].items()},
        )
    except FileNotFoundError as error:
        raise SohoError(f"{path} is missing; make the world with `soho data miniature {out}`") from error
    except (KeyError, TypeError, ValueError) as error:
        raise SohoError(f"{path} is not the record of a finished embedded world ({error!r})") from error
