"""What the demonstration runs, in order: draw a world, pre-train, fine-tune with and without pre-training, measure."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from soho.data.miniature import generate, load_world
from soho.data.miniature.write import WORLD_FILE
from soho.errors import SohoError
from soho.runs import evaluate, train
from soho.training.checkpoint import write_text_atomically
from soho.training.recipe import Recipe, load_recipe

RECIPES = Path("recipes/demo")
RESULTS = "results.json"
# Without pre-training everything starts at random, and there the rates of pre-training are the better ones; a rival is
# given what suits it.
FROM_NOTHING = [
    "model.start=null",
    "training.optimizer.lr=3.0e-3",
    "training.backbone_optimizer.lr=8.0e-4",
    "training.schedule.warmup_steps=50",
]


@dataclass
class DemoResult:
    """Everything the page and the study need.

    Attributes:
        out: folder of the demonstration.
        metrics: run -> figure -> value on the test split (pretrain: on the validation split).
        seconds: stage -> duration; of a stage that was finished before, what it took then.
        steps: run -> optimizer steps.
        train_seconds: run -> time spent in its training steps, over all parts of a resumed run.
    """

    out: Path
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    train_seconds: dict[str, float] = field(default_factory=dict)

    def save(self, name: str = RESULTS) -> None:
        """Write everything but the folder's name as JSON into the folder."""
        content = {key: value for key, value in asdict(self).items() if key != "out"}
        write_text_atomically(self.out / name, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, out: Path, name: str = RESULTS) -> DemoResult:
        """Read what `save` wrote; an empty result where there is nothing."""
        path = out / name
        return cls(out, **json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls(out)


# Run -> recipe file and what differs from it. The blind run sees grey pictures but is trained the same way.
RUNS: dict[str, tuple[str, list[str]]] = {
    "retrieval": ("retrieval.yaml", []),
    "retrieval_no_pretraining": ("retrieval.yaml", FROM_NOTHING),
    "vqa": ("vqa.yaml", []),
    "vqa_no_pretraining": ("vqa.yaml", FROM_NOTHING),
    "vqa_question_only": ("vqa.yaml", ["data.image_blind=true"]),
}


def demo_recipe(file: str, run: str, out: Path, seed: int, changes: list[str]) -> Recipe:
    """Return a recipe of the demonstration with its folders moved under `out`."""
    places = [f"data.root={out / 'world'}", f"output={out / run}", f"seed={seed}"]
    if file != "pretrain.yaml" and FROM_NOTHING[0] not in changes:
        places.append(f"model.start={out / 'pretrain' / 'model'}")
    return load_recipe(RECIPES / file, [*places, *changes])


def run_demo(out: Path, seed: int = 0, changes: dict[str, list[str]] | None = None, fresh: bool = False) -> DemoResult:
    """Run every stage; a stage that is finished is not done again.

    Args:
        out: folder of the demonstration.
        seed: of world, initialisation and all draws.
        changes: run -> recipe changes, for instance the numbers of steps in tests.
        fresh: throw away what an earlier demonstration left in `out`.

    Returns:
        Figures, durations and numbers of steps.

    Raises:
        SohoError: `out` holds the world of another seed, or anything that a recipe, data or a model can be wrong
            about.
    """
    if out.exists() and not out.is_dir():
        raise SohoError(f"{out} is a file; expected a folder for the demonstration, which is made where it is missing")
    if fresh and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    changes = changes or {}
    console = Console()
    result = DemoResult.load(out)

    console.rule("[bold]1/4  drawing the embedded world")
    begin = time.perf_counter()
    world = out / "world"
    if not _is_drawn(world, seed):
        sizes = [int(value) for value in changes.get("world", ["4000", "300", "500"])]
        summary = generate(world, train_images=sizes[0], validation_images=sizes[1], test_images=sizes[2], seed=seed)
        console.print("\n".join(summary.lines()), highlight=False)
        result.seconds["world"] = time.perf_counter() - begin

    def run_stage(title: str, run: str, recipe: Recipe, split: str) -> None:
        console.rule(f"[bold]{title}")
        begin = time.perf_counter()
        trained = train(recipe).summary
        result.metrics[run] = evaluate(recipe, split)
        result.steps[run], result.train_seconds[run] = trained.steps, trained.seconds
        if not (trained.already_finished and run in result.seconds):
            # A run that was stopped has spent more time than this last part of it.
            result.seconds[run] = max(time.perf_counter() - begin, trained.seconds)
        result.save()

    recipe = demo_recipe("pretrain.yaml", "pretrain", out, seed, changes.get("pretrain", []))
    run_stage("2/4  pre-training: MLM + MVM + ITM", "pretrain", recipe, "validation")
    for number, (run, (file, own)) in enumerate(RUNS.items(), start=1):
        recipe = demo_recipe(file, run, out, seed, [*own, *changes.get(run, changes.get(file, []))])
        run_stage(f"3/4  fine-tuning {number} of {len(RUNS)}: {run.replace('_', ' ')}", run, recipe, "test")
    return result


def _is_drawn(world: Path, seed: int) -> bool:
    """Say whether the world is there; a world that was not finished is drawn again.

    Raises:
        SohoError: it is that of another seed.
    """
    if not (world / WORLD_FILE).is_file():
        return False
    try:
        found = load_world(world).seed
    except SohoError:
        return False
    if found != seed:
        raise SohoError(
            f"{world} holds the embedded world of seed {found}, but seed {seed} was asked for; choose another --out, "
            "or delete the folder"
        )
    return True
