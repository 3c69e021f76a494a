"""What the demonstration runs, in order: draw a world, pre-train, fine-tune with and without pre-training, measure."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from soho.data.miniature import generate, load_world
from soho.data.miniature.write import WORLD_FILE
from soho.demo.result import DemoResult, StageResult
from soho.demo.side_by_side import AT_ONCE, Stage, run_side_by_side
from soho.errors import SohoError
from soho.runs import MODEL_FOLDER, evaluate, train
from soho.tasks import build_task
from soho.tasks.classification import ClassificationTask
from soho.training.recipe import Recipe, load_recipe
from soho.training.run_info import RECIPE_NAME

RECIPES = Path("recipes/demo")
# Without pre-training everything starts at random: the CNN has to learn here, which takes twice the time for a step,
# and the rates of pre-training are the better ones. A rival is given what suits it.
FROM_NOTHING = [
    "model.start=null",
    "training.freeze_backbone_epochs=0",
    "training.frozen_feature_megabytes=0",
    "training.optimizer.lr=3.0e-3",
    "training.backbone_optimizer.lr=8.0e-4",
    "training.schedule.warmup_steps=50",
]
# The blind model sees grey pictures but is trained the same way.
BLIND = ["data.image_blind=true"]

# Run -> recipe file and what differs from it. Long ones come first, so that two processes end at about the same time.
# Retrieval has no model without pictures: it has nothing to tell them apart.
RUNS: dict[str, tuple[str, list[str]]] = {
    "vqa": ("vqa.yaml", []),
    "vqa_no_pretraining": ("vqa.yaml", FROM_NOTHING),
    "vqa_text_only": ("vqa.yaml", BLIND),
    "nlvr2": ("nlvr2.yaml", []),
    "nlvr2_no_pretraining": ("nlvr2.yaml", FROM_NOTHING),
    "nlvr2_text_only": ("nlvr2.yaml", BLIND),
    "snli_ve": ("snli_ve.yaml", []),
    "snli_ve_no_pretraining": ("snli_ve.yaml", FROM_NOTHING),
    "snli_ve_text_only": ("snli_ve.yaml", BLIND),
    "retrieval": ("retrieval.yaml", []),
    "retrieval_no_pretraining": ("retrieval.yaml", FROM_NOTHING),
}


def demo_recipe(file: str, run: str, out: Path, seed: int, changes: list[str]) -> Recipe:
    """Return a recipe of the demonstration with its folders moved under `out`."""
    places = [f"data.root={out / 'world'}", f"output={out / run}", f"seed={seed}"]
    if file != "pretrain.yaml" and FROM_NOTHING[0] not in changes:
        places.append(f"model.start={out / 'pretrain' / 'model'}")
    return load_recipe(RECIPES / file, [*places, *changes])


def run_stage(recipe: Recipe, split: str) -> StageResult:
    """Train (or go on where it stopped) and measure on a split; `majority` is always among a classification's figures.

    Raises:
        SohoError: anything that a recipe, data or a model can be wrong about.
    """
    begin = time.perf_counter()
    summary = train(recipe).summary
    metrics = evaluate(recipe, split)
    task = build_task(recipe)
    if isinstance(task, ClassificationTask):
        metrics["majority"] = task.majority_accuracy(split)
    # A run that was stopped has spent more time than this last part of it.
    seconds = max(time.perf_counter() - begin, summary.seconds)
    return StageResult(metrics, seconds, summary.steps, summary.seconds)


def run_demo(
    out: Path,
    seed: int = 0,
    changes: dict[str, list[str]] | None = None,
    fresh: bool = False,
    serial: bool = False,
) -> DemoResult:
    """Run every stage; a stage that is finished is not done again.

    The fine-tuning runs need nothing of each other. Where there are two cores, two of them run side by side with half
    of the cores each: a small model on two threads is far from twice as fast as on one.

    Args:
        out: folder of the demonstration.
        seed: of world, initialisation and all draws.
        changes: run -> recipe changes, for instance the numbers of steps in tests.
        fresh: throw away what an earlier demonstration left in `out`.
        serial: run one stage after the other in this process.

    Returns:
        Figures, durations and numbers of steps.

    Raises:
        SohoError: `out` holds the world of another seed, a stage ended without a result, or anything that a recipe,
            data or a model can be wrong about.
    """
    if out.exists() and not out.is_dir():
        raise SohoError(f"{out} is a file; expected a folder for the demonstration, which is made where it is missing")
    if fresh and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    changes = changes or {}
    console = Console()
    result = DemoResult.load(out)
    before, begin = result.wall_seconds, time.perf_counter()

    def keep(run: str, found: StageResult) -> None:
        result.add(run, found)
        result.wall_seconds = before + time.perf_counter() - begin
        result.save()

    console.rule("[bold]1/4  drawing the embedded world")
    world = out / "world"
    if not _is_drawn(world, seed):
        sizes = [int(value) for value in changes.get("world", ["4000", "300", "500"])]
        summary = generate(world, train_images=sizes[0], validation_images=sizes[1], test_images=sizes[2], seed=seed)
        console.print("\n".join(summary.lines()), highlight=False)
        result.seconds["world"] = time.perf_counter() - begin

    console.rule("[bold]2/4  pre-training: MLM + MVM + ITM")
    recipe = demo_recipe("pretrain.yaml", "pretrain", out, seed, changes.get("pretrain", []))
    if not _is_done(result, "pretrain", recipe):
        keep("pretrain", run_stage(recipe, "validation"))

    console.rule(f"[bold]3/4  fine-tuning and measuring: {len(RUNS)} runs")
    stages = []
    for run, (file, own) in RUNS.items():
        overrides = [*own, *changes.get(run, changes.get(file, []))]
        if _is_done(result, run, demo_recipe(file, run, out, seed, overrides)):
            console.print(f"{run}: finished before", highlight=False)
        else:
            stages.append(Stage(run, file, overrides, out, seed))
    cores = available_cores()
    if serial or cores < AT_ONCE:
        for stage in stages:
            console.rule(stage.run.replace("_", " "))
            keep(stage.run, run_stage(stage_recipe(stage), "test"))
    else:
        run_side_by_side(stages, threads=cores // AT_ONCE, keep=keep, console=console)
    return result


def stage_recipe(stage: Stage) -> Recipe:
    """Return the recipe of a fine-tuning run."""
    return demo_recipe(stage.file, stage.run, stage.out, stage.seed, list(stage.changes))


def available_cores() -> int:
    """Return how many cores this process may use."""
    affinity: Sequence[int] | set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(affinity) or os.cpu_count() or 1


def _is_done(result: DemoResult, run: str, recipe: Recipe) -> bool:
    """Say whether a run was measured with this very recipe; one that is trained but not measured goes on from there."""
    stored = recipe.output / RECIPE_NAME
    return (
        run in result.metrics
        and (recipe.output / MODEL_FOLDER).is_dir()
        and stored.is_file()
        and stored.read_text(encoding="utf-8") == recipe.to_yaml()
    )


def _is_drawn(world: Path, seed: int) -> bool:
    """Say whether the world is there; a world that was not finished is drawn again.

    Raises:
        SohoError: it is that of another seed or version, with which the runs beside it were trained.
    """
    if not (world / WORLD_FILE).is_file():
        return False
    try:
        found = load_world(world).seed
    except SohoError as error:
        raise SohoError(
            f"{world} cannot be used again ({error}); choose another --out, or delete {world.parent}"
        ) from None
    if found != seed:
        raise SohoError(
            f"{world} holds the embedded world of seed {found}, but seed {seed} was asked for; choose another --out, "
            "or delete the folder"
        )
    return True
