"""Recipes of a model small enough for a unit test, on the embedded world or on pictures made by a test."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from soho.training.recipe import Recipe, load_recipe

MODEL: dict[str, Any] = {
    "vocabulary_size": 300,
    "backbone_config": {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
    },
    "config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "dictionary_size": 16,
    },
}


def captions(split: str) -> dict[str, Any]:
    """Return the world's captions of a Karpathy split as a recipe source."""
    annotations = "{root}/annotations/dataset_coco.json"
    return {"format": "karpathy", "annotations": annotations, "images": "{root}/images", "split": split}


def questions(year: str) -> dict[str, Any]:
    """Return the world's questions of a split as a recipe source."""
    return {
        "format": "vqa2",
        "questions": f"{{root}}/annotations/v2_OpenEnded_mscoco_{year}2014_questions.json",
        "annotations": f"{{root}}/annotations/v2_mscoco_{year}2014_annotations.json",
        "images": "{root}/images",
    }


def statements(split: str) -> dict[str, Any]:
    """Return the world's sentences about two pictures of a split (train, dev, test1) as a recipe source."""
    return {"format": "nlvr2", "annotations": f"{{root}}/annotations/nlvr2_{split}.json", "images": "{root}/images"}


def hypotheses(split: str) -> dict[str, Any]:
    """Return the world's hypotheses of a split (train, dev, test) as a recipe source."""
    return {
        "format": "snli_ve",
        "annotations": f"{{root}}/annotations/snli_ve_{split}.jsonl",
        "images": "{root}/images",
    }


REGIONS: dict[str, Any] = {
    "format": "visual_genome",
    "annotations": "{root}/annotations/region_descriptions.json",
    "image_data": "{root}/annotations/image_data.json",
    "images": "{root}/images",
}


def tiny_values(task: str, root: Path, output: Path) -> dict[str, Any]:
    """Return the values of a recipe file that trains `task` on the world in `root`."""
    source, splits = {
        "vqa": (questions, ("train", "val", "test")),
        "nlvr2": (statements, ("train", "dev", "test1")),
        "snli_ve": (hypotheses, ("train", "dev", "test")),
    }.get(task, (captions, ("train", "val", "test")))
    data = {section: [source(split)] for section, split in zip(("train", "validation", "test"), splits)}
    return {
        "task": task,
        "output": str(output),
        "model": copy.deepcopy(MODEL),
        "data": {
            "root": str(root),
            **data,
            "shorter_edge": 128,
            "longer_edge": 192,
            "text_length": 20,
            "answer_minimum_count": 2,
            "workers": 0,
        },
        "training": {
            "epochs": 2,
            "batch_size": 8,
            "log_every": 1,
            "checkpoint_every": 2,
            "optimizer": {"lr": 1e-3},
            "schedule": {"kind": "constant"},
        },
        "evaluation": {"batch_size": 8, "pair_batch": 64},
    }


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """Write values as a recipe file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def tiny_recipe(task: str, root: Path, output: Path, *overrides: str) -> Recipe:
    """Return a recipe that trains `task` on the world in `root`; its file lies beside `output`."""
    return load_recipe(write_recipe(Path(f"{output}.yaml"), tiny_values(task, root, output)), overrides)
