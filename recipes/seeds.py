"""Train and measure a fine-tuning recipe over several seeds, beside the models it has to beat.

    python recipes/seeds.py recipes/daquar/vqa.yaml --out runs/daquar --seeds 0 1 2 data.root=/path/to/daquar

    pretrained       the recipe as it stands
    no_pretraining   the same from where pre-training started: the `model` section of the recipe given by --from
    text_only        the recipe on grey pictures

Runs that are finished are not repeated, one that was stopped goes on. Several calls may go on side by side, each with
runs or seeds of its own; a last call with all of them then writes the table. Writes results.json and results.md (mean,
standard deviation and each seed's value) into OUT.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from soho.runs import evaluate, train
from soho.tasks import build_task
from soho.tasks.classification import ClassificationTask
from soho.training.checkpoint import write_text_atomically
from soho.training.recipe import Recipe, load_recipe

RUNS = ("pretrained", "no_pretraining", "text_only")
# Figures that tell of the data alone.
OF_THE_DATA = ("majority", "examples")
RESULT = "result.json"


def recipe_of(run: str, arguments: argparse.Namespace, seed: int) -> Recipe:
    """Return the recipe of one run and seed."""
    recipe = load_recipe(arguments.recipe, arguments.changes)
    recipe.output = arguments.out / run / f"seed-{seed}"
    recipe.seed = seed
    if run == "no_pretraining":
        config = recipe.model.config
        recipe.model = load_recipe(arguments.origin, [f"data.root={recipe.data.root}"]).model
        recipe.model.config |= config
    recipe.data.image_blind = run == "text_only"
    return recipe


def measure(recipe: Recipe) -> dict[str, Any]:
    """Return figures, steps and training seconds of a run, which is trained where it is not finished."""
    path = recipe.output / RESULT
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    summary = train(recipe).summary
    figures = evaluate(recipe)
    task = build_task(recipe)
    if isinstance(task, ClassificationTask):
        figures["majority"] = task.majority_accuracy("validation")
    result = {"figures": figures, "steps": summary.steps, "seconds": summary.seconds}
    write_text_atomically(path, json.dumps(result, indent=1) + "\n")
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the figures of runs over seeds, in percent, as Markdown."""
    lines = ["| run | figure | mean | sd | seeds |", "|---|---|---|---|---|"]
    first = next(iter(results.values()))[0]["figures"]
    for name in (name for name in first if name != "examples"):
        for run, found in results.items():
            if name in OF_THE_DATA and run != next(iter(results)):
                continue
            values = [100 * one["figures"][name] for one in found]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            each = " ".join(f"{value:.1f}" for value in values)
            label = "" if name in OF_THE_DATA else run
            lines.append(f"| {label} | {name} | {statistics.mean(values):.1f} | {spread:.1f} | {each} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="the fine-tuning recipe: vqa, nlvr2 or snli_ve")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="what to train and measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument(
        "--from",
        dest="origin",
        type=Path,
        default=Path("recipes/flickr8k/pretrain.yaml"),
        help="pre-training recipe whose start no_pretraining has",
    )
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes of the recipe")
    arguments = parser.parse_intermixed_args()
    results = {run: [measure(recipe_of(run, arguments, seed)) for seed in arguments.seeds] for run in arguments.runs}
    page = table(results)
    write_text_atomically(arguments.out / "results.json", json.dumps(results, indent=1) + "\n")
    write_text_atomically(arguments.out / "results.md", page)
    print(page)


if __name__ == "__main__":
    main()
