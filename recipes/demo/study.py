"""Repeat the demonstration over several seeds and add the rival that could win: the whole budget spent on fine-tuning.

    python recipes/demo/study.py --out runs/study --seeds 0 1 2

Each seed draws another world and other weights. `whole budget` has, for each of the four tasks, no pre-training and as
many fine-tuning steps as fit into the processor time of the steps of pre-training and fine-tuning together
(evaluation does not count). What a step of each run costs is measured once, by short runs, and the same for all seeds.
Stages that are finished are not repeated. Writes `study.md` (mean and spread over seeds) into OUT. Seeds may
run side by side as processes of their own, each with OMP_NUM_THREADS=1 and one seed; a last call with all seeds then
writes the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from soho.demo import DemoResult, run_demo
from soho.demo.stages import FROM_NOTHING, RUNS, demo_recipe
from soho.runs import evaluate, train

SHORT_RUNS = (5, 25)  # steps
STUDY = "study.json"  # a demonstration's results, and those of its rivals
# Task -> the figures of the table; those of the data alone stand only once, with the task's first run.
FIGURES = {
    "retrieval": ("tr_r1", "tr_r10", "ir_r1", "ir_r10"),
    "vqa": ("accuracy", "majority"),
    "nlvr2": ("accuracy", "consistency", "majority"),
    "snli_ve": ("accuracy", "majority"),
}


def step_seconds(out: Path, run: str) -> float:
    """Return the processor time of a training step of a demonstration's run, measured once and kept in `out`.

    Processor time, because neither a pause of the machine nor its other work may give a rival more or fewer steps. Two
    short runs are compared, so that what goes before the first step does not count.
    """
    path = out / "step_seconds.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if run not in known:
        spent = []
        for steps in SHORT_RUNS:
            with tempfile.TemporaryDirectory() as folder:
                file, own = RUNS.get(run, ("pretrain.yaml", []))
                changes = [
                    *own,
                    f"training.max_steps={steps}",
                    f"output={folder}/{run}",
                    "training.checkpoint_every=null",
                ]
                recipe = demo_recipe(file, run, out / "seed-0", 0, changes)
                begin = time.process_time()
                train(recipe)
                spent.append(time.process_time() - begin)
        known[run] = (spent[1] - spent[0]) / (SHORT_RUNS[1] - SHORT_RUNS[0])
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return float(known[run])


def whole_budget(result: DemoResult, task: str, seed: int) -> None:
    """Fine-tune from nothing for as long as pre-training and fine-tuning took together."""
    run, out = f"{task}_whole_budget", result.out.parent
    budget = sum(result.steps[part] * step_seconds(out, part) for part in ("pretrain", task))
    # A step from nothing takes longer than one of the run it is compared with, where that has a fixed CNN.
    steps = round(budget / step_seconds(out, f"{task}_no_pretraining"))
    changes = [*FROM_NOTHING, f"training.max_steps={steps}", "training.epochs=1000"]
    recipe = demo_recipe(RUNS[task][0], run, result.out, seed, changes)
    summary = train(recipe).summary
    result.steps[run], result.train_seconds[run] = summary.steps, summary.seconds
    result.metrics[run] = evaluate(recipe, "test")


def table(results: list[DemoResult]) -> str:
    """Return a Markdown table: run, figure, mean and standard deviation in percent, each seed's value."""
    lines = ["| run | steps | figure | mean | sd | seeds |", "|---|---|---|---|---|---|"]
    # A rival that only some seeds have run is left out: a mean has to be of the same runs everywhere.
    for run in [name for name in results[0].metrics if all(name in result.metrics for result in results)]:
        task = next((name for name in FIGURES if run.startswith(name)), None)
        figures = (
            FIGURES[task] if task else ("mlm_accuracy", "mvm_accuracy", "mvm_majority", "itm_accuracy", "perplexity")
        )
        for figure in figures:
            if figure == "majority" and run != task:
                continue
            scale = 1 if figure == "perplexity" else 100
            values = [scale * result.metrics[run][figure] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            steps = "/".join(str(result.steps[run]) for result in results)
            each = " ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {run} | {steps} | {figure} | {statistics.mean(values):.1f} | {spread:.1f} | {each} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one demonstration each")
    parser.add_argument(
        "--whole-budget", nargs="*", choices=list(FIGURES), default=list(FIGURES), help="tasks with that rival"
    )
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}"
        if (folder / STUDY).is_file():
            result = DemoResult.load(folder, STUDY)
        else:
            result = run_demo(folder, seed, serial=True)
        for task in arguments.whole_budget:
            if f"{task}_whole_budget" not in result.metrics:
                whole_budget(result, task, seed)
                result.save(STUDY)
        results.append(result)
    page = table(results)
    (arguments.out / "study.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
