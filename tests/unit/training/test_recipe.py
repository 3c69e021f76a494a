from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from soho.errors import SohoError
from soho.training.recipe import (
    Recipe,
    describe_recipe,
    load_recipe,
    resume_differences,
)
from soho.training.run_info import different_settings

RECIPE = """
task: retrieval
output: runs/a
data:
  root: /photos
  train:
    - {format: jsonl, annotations: "{root}/a.jsonl", images: "{root}/images"}
    - {format: jsonl, annotations: own/b.jsonl}
training:
  epochs: 20
  optimizer: {lr: 1e-4}
  schedule: {milestones: [3, 5, 9.5], factor: 0.5}
"""


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(SohoError) as caught:
        load_recipe(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_defaults_and_scientific_notation(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, [])
    assert recipe.training.optimizer.lr == 0.0001
    assert recipe.training.schedule.milestones == [3.0, 5.0, 9.5]
    # The paper's numbers where the recipe is silent (section 4.1).
    assert (recipe.training.backbone_optimizer.name, recipe.training.backbone_optimizer.lr) == ("sgd", 0.01)
    assert recipe.training.backbone_optimizer.weight_decay == 5e-4
    assert recipe.training.optimizer.weight_decay == 1e-2
    assert recipe.training.optimizer.betas == [0.9, 0.999]


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E+2", 100.0), ("-2e3", -2000.0), (".5", 0.5), ("5e-05", 5e-5), ("1.5", 1.5)]
)
def test_numbers_as_people_write_them(recipe_path: Path, text: str, value: float) -> None:
    assert load_recipe(recipe_path, [f"model.config={{x: {text}}}"]).model.config == {"x": value}


@pytest.mark.parametrize("text", ["e4", "1e", "12ab", "1.2.3"])
def test_texts_that_only_look_like_numbers_stay_texts(recipe_path: Path, text: str) -> None:
    assert load_recipe(recipe_path, [f"model.config={{x: {text}}}"]).model.config == {"x": text}


def test_root_is_filled_in_and_may_be_overridden(recipe_path: Path) -> None:
    first, second = load_recipe(recipe_path, ["data.root=/elsewhere"]).data.train
    assert first.annotations == Path("/elsewhere/a.jsonl")
    assert first.images == [Path("/elsewhere/images")]
    assert second.annotations == Path("own/b.jsonl")


def test_root_that_is_not_set(recipe_path: Path) -> None:
    text = message(recipe_path, "data.root=null")
    assert "data.train.0.annotations" in text
    assert "data.root" in text


def test_overrides_reach_list_items_and_new_sections(recipe_path: Path) -> None:
    changes = [
        "data.train.1.limit=50",
        "evaluation.max_images=200",
        "training.clip_norm=null",
        "training.optimizer.lr=3e-5",
    ]
    recipe = load_recipe(recipe_path, changes)
    assert recipe.data.train[1].limit == 50
    assert recipe.data.train[0].limit is None
    assert recipe.evaluation.max_images == 200
    assert recipe.training.clip_norm is None
    assert recipe.training.optimizer.lr == 3e-5


def test_unknown_key_names_the_nearest_and_the_file(recipe_path: Path) -> None:
    recipe_path.write_text(RECIPE.replace("epochs: 20", "epoch: 20"))
    assert message(recipe_path) == f"unknown key 'training.epoch' in {recipe_path}; did you mean 'training.epochs'?"


def test_unknown_key_in_an_override(recipe_path: Path) -> None:
    text = message(recipe_path, "data.train.0.anotations=b")
    assert text == (
        "unknown key 'data.train.0.anotations' in the override 'data.train.0.anotations=b'; "
        "did you mean 'data.train.0.annotations'?"
    )


def test_key_in_the_wrong_section_names_the_right_one(recipe_path: Path) -> None:
    assert message(recipe_path, "batch_size=3").endswith("did you mean 'training.batch_size'?")


def test_key_like_no_other_lists_the_section(recipe_path: Path) -> None:
    assert "valid keys of evaluation are: batch_size, max_images" in message(recipe_path, "evaluation.zzz=3")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=ten", "'training.epochs' in the override 'training.epochs=ten' should be a valid integer"),
        ("training.epochs=1.5", "got 1.5"),
        ("training.epochs=yes", "got True"),
        ("training.epochs=0", "should be greater than or equal to 1, got 0"),
        ("training={precision: fp16, fsdp: true}", "fsdp=true does not go with precision=fp16"),
        ("training.precision=fp8", "should be 'fp32', 'bf16' or 'fp16', got 'fp8'"),
        ("training.schedule.milestones=[5,3]", "milestones must be epochs in ascending order, got [5.0, 3.0]"),
        ("data.longer_edge=400", "longer_edge (400) is below shorter_edge (600)"),
        ("data.train.7.limit=3", "names entry '7' of data.train"),
        ("training.epochs.x=3", "names a part of training.epochs, which is a single value (20)"),
        ("training=3", "should be a section of keys, got 3"),
        ("training.epochs", "must have the form key=value"),
        ("output=null", "should be a path, got None"),
        ("model.config={a: 1, a: 2}", "'a' stands twice"),
    ],
)
def test_one_sentence_per_mistake(recipe_path: Path, override: str, expected: str) -> None:
    assert expected in message(recipe_path, override)


def test_broken_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    assert message(path) == f"there is no recipe {path}"
    path.write_text("task: vqa\noutput: x\ntraining: {epochs: 3\n")
    assert message(path).startswith(f"{path}, line 4: not valid YAML")
    path.write_text("task: vqa\ntask: vqa\noutput: x\n")
    assert message(path) == f"{path}, line 2: not valid YAML: 'task' stands twice"
    path.write_text("- a\n")
    assert "must hold sections" in message(path)
    path.write_text("task: vqa\noutput: o\ndata: {root: d, answers: {root}/answers.json}\n")
    assert 'in quotes: "{root}/..."' in message(path)
    path.write_text("output: x\n")
    assert message(path) == f"the key 'task' is missing in {path}"


def test_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path: Path, recipe_path: Path) -> None:
    child = tmp_path / "folder" / "child.yaml"
    child.parent.mkdir()
    child.write_text("base: ../recipe.yaml\noutput: runs/b\ntraining: {schedule: {milestones: [1]}}\n")
    recipe = load_recipe(child, [])
    assert recipe.output == Path("runs/b")
    assert recipe.task == "retrieval"
    assert recipe.training.epochs == 20
    assert recipe.training.schedule.milestones == [1.0]
    assert recipe.training.schedule.factor == 0.5
    assert len(recipe.data.train) == 2


def test_a_mistake_in_the_base_names_the_base(tmp_path: Path, recipe_path: Path) -> None:
    recipe_path.write_text(RECIPE.replace("epochs: 20", "epochs: many"))
    child = tmp_path / "child.yaml"
    child.write_text("base: recipe.yaml\ntraining: {batch_size: 2}\n")
    assert f"'training.epochs' in {recipe_path} should be" in message(child)


def test_base_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    assert "circle" in message(tmp_path / "a.yaml")


def test_dump_reads_back_equal(tmp_path: Path, recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["training.optimizer.eps=1e-8", "model.config={a: [1, 2]}"])
    recipe.dump(tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml", []) == recipe


def test_defaults_are_not_shared_between_recipes(recipe_path: Path) -> None:
    one, two = load_recipe(recipe_path), load_recipe(recipe_path)
    one.model.config["x"] = 1
    one.evaluation.batch_size = 1
    assert two.model.config == {}
    assert two.evaluation.batch_size == 32


def test_every_key_is_described() -> None:
    lines = describe_recipe().splitlines()
    assert "  freeze_backbone_epochs: integer, default 0" in lines
    assert "  precision: fp32|bf16|fp16, default fp32" in lines
    assert "task: text, required" in lines
    assert not [line for line, below in itertools.pairwise(lines) if ", default " in line and not below.strip()]
    assert "Undefined" not in describe_recipe()


def test_text_layers_need_a_text(recipe_path: Path) -> None:
    words = "text_layers=3 needs text, the BERT whose first layers are kept"
    assert words in message(recipe_path, "model.text=null", "model.start=null", "model.text_layers=3")
    # A start brings its own layers: the key then says nothing, and the load report tells so.
    assert load_recipe(recipe_path, ["model.text=null", "model.start=x", "model.text_layers=3"]).model.text_layers == 3


@pytest.mark.parametrize(("kind", "fixed"), [("step", False), ("constant", False), ("cosine", True), ("linear", True)])
def test_a_schedule_that_ends_fixes_the_length_of_a_run(kind: str, fixed: bool, recipe_path: Path) -> None:
    def dumped(*changes: str) -> dict[str, object]:
        return load_recipe(recipe_path, [f"training.schedule.kind={kind}", *changes]).model_dump(mode="json")

    longer = resume_differences(dumped(), dumped("training.epochs=99", "training.max_steps=7"))
    assert longer == (["training.epochs", "training.max_steps"] if fixed else [])
    words = str(different_settings(Path("run"), ["training.epochs"]))
    assert "a cosine or linear schedule ends at the last step" in words
    assert "schedule" not in str(different_settings(Path("run"), ["seed"]))


def test_resume_differences_names_only_what_changes_training(recipe_path: Path) -> None:
    def dumped(*overrides: str) -> dict[str, object]:
        return load_recipe(recipe_path, overrides).model_dump(mode="json")

    free = ["output=o", "training.epochs=99", "training.log_every=1", "evaluation.batch_size=1", "data.workers=0"]
    assert resume_differences(dumped(), dumped(*free)) == []
    changed = dumped("training.optimizer.lr=1e-5", "data.train.0.limit=3", "seed=1")
    assert sorted(resume_differences(dumped(), changed)) == ["data.train.0.limit", "seed", "training.optimizer.lr"]
    # A file from before a field existed counts it as null.
    older = dumped()
    del older["evaluation"], older["training"]["max_steps"]  # type: ignore[attr-defined]
    assert resume_differences(older, dumped()) == []


def test_schema_is_closed_everywhere() -> None:
    assert Recipe.model_config["extra"] == "forbid"
    for field in Recipe.model_fields.values():
        section = field.annotation
        if isinstance(section, type) and hasattr(section, "model_config"):
            assert section.model_config["extra"] == "forbid"
            assert all(inner.description for inner in section.model_fields.values())
