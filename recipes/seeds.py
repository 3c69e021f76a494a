r"""Train and measure a fine-tuning recipe over several seeds, beside the models it has to beat.

    python recipes/seeds.py recipes/daquar/vqa.yaml --from recipes/flickr8k/pretrain.yaml --out runs/daquar \
        --seeds 0,1,2 data.root=/path/to/daquar

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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soho.errors import SohoError
from soho.runs import OF_THE_DATA, evaluate, train
from soho.tasks import build_task
from soho.tasks.classification import ClassificationTask
from soho.training.checkpoint import write_text_atomically
from soho.training.recipe import Recipe, load_recipe
from soho.training.run_info import RECIPE_NAME

RUNS = ("pretrained", "no_pretraining", "text_only")
COUNTS = ("examples", "sentences")
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
    """Return figures, steps and training seconds of a run, which is trained where it is not finished.

    Raises:
        SohoError: the run's folder holds a run of other settings, or of a start that was trained anew since.
    """
    path, stored = recipe.output / RESULT, recipe.output / RECIPE_NAME
    if path.is_file():
        if stored.read_text(encoding="utf-8") != recipe.to_yaml():
            raise SohoError(f"{recipe.output} was measured with other settings; choose another --out, or delete it")
        weights = Path(recipe.model.start or "") / "model.safetensors"
        if weights.is_file() and weights.stat().st_mtime > path.stat().st_mtime:
            raise SohoError(f"{recipe.output} was measured before {weights} was written; delete it")
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
    first_run = next(iter(results))
    for name in results[first_run][0]["figures"]:
        for run, found in results.items():
            if name in COUNTS or (name in OF_THE_DATA and run != first_run):
                continue
            values = [100 * one["figures"][name] for one in found]
            spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            each = " ".join(f"{value:.1f}" for value in values)
            label = "" if name in OF_THE_DATA else run
            lines.append(f"| {label} | {name} | {statistics.mean(values):.1f} | {spread} | {each} |")
    return "\n".join(lines) + "\n"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SohoError: no_pretraining is asked for without a word on where pre-training started.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="the fine-tuning recipe: vqa, nlvr2 or snli_ve")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--runs", type=_names, default=list(RUNS), help=f"of {','.join(RUNS)}; default all")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="one run each, by default 0,1,2")
    parser.add_argument("--from", dest="origin", type=Path, help="pre-training recipe whose start no_pretraining has")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes of the recipe")
    arguments = parser.parse_intermixed_args(words)
    if "no_pretraining" in arguments.runs and arguments.origin is None:
        raise SohoError("no_pretraining needs --from, the pre-training recipe whose start it has")
    return arguments


def _names(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(RUNS):
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(RUNS)}")
    return chosen


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Run what was asked for."""
    arguments = parse()
    results = {run: [measure(recipe_of(run, arguments, seed)) for seed in arguments.seeds] for run in arguments.runs}
    page = table(results)
    write_text_atomically(arguments.out / "results.json", json.dumps(results, indent=1) + "\n")
    write_text_atomically(arguments.out / "results.md", page)
    print(page)


if __name__ == "__main__":
    try:
        main()
    except SohoError as error:
        sys.exit(f"seeds: {error}")
