"""What the demonstration runs, in order: draw a world, pre-train, fine-tune with and without pre-training, measure."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from soho.data.miniature import generate
from soho.runs import evaluate, train
from soho.training.recipe import Recipe, load_recipe

RECIPES = Path("recipes/demo")
FROM_NOTHING = ["model.start=null"]


@dataclass
class DemoResult:
    """Everything the page and the study need.

    Attributes:
        out: folder of the demonstration.
        metrics: run -> figure -> value on the test split (pretrain: on the validation split).
        seconds: stage -> duration.
        steps: run -> optimizer steps.
    """

    out: Path
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    def save(self) -> None:
        """Write `results.json` into the folder."""
        content = {"metrics": self.metrics, "seconds": self.seconds, "steps": self.steps}
        (self.out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
        SohoError: anything that a recipe, data or a model can be wrong about.
    """
    if fresh and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    changes = changes or {}
    console = Console()
    result = DemoResult(out)

    def stage(title: str, name: str) -> float:
        console.rule(f"[bold]{title}")
        result.seconds.setdefault(name, 0.0)
        return time.perf_counter()

    begin = stage("1/4  drawing the embedded world", "world")
    if not (out / "world" / "world.json").is_file():
        sizes = [int(value) for value in changes.get("world", ["4000", "300", "500"])]
        summary = generate(
            out / "world", train_images=sizes[0], validation_images=sizes[1], test_images=sizes[2], seed=seed
        )
        console.print("\n".join(summary.lines()), highlight=False)
    result.seconds["world"] = time.perf_counter() - begin

    begin = stage("2/4  pre-training: MLM + MVM + ITM", "pretrain")
    recipe = demo_recipe("pretrain.yaml", "pretrain", out, seed, changes.get("pretrain", []))
    result.steps["pretrain"] = train(recipe).summary.steps
    result.metrics["pretrain"] = evaluate(recipe, "validation")
    result.seconds["pretrain"] = time.perf_counter() - begin

    for number, (run, (file, own)) in enumerate(RUNS.items(), start=1):
        begin = stage(f"3/4  fine-tuning {number} of {len(RUNS)}: {run.replace('_', ' ')}", run)
        recipe = demo_recipe(file, run, out, seed, [*own, *changes.get(run, changes.get(file, []))])
        result.steps[run] = train(recipe).summary.steps
        result.metrics[run] = evaluate(recipe, "test")
        result.seconds[run] = time.perf_counter() - begin
    result.save()
    return result
