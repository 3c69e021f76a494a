"""The tables of the demonstration: every task beside what it must beat."""

from __future__ import annotations

from rich.table import Table

from soho.demo.result import DemoResult
from soho.inspection.curves import format_value
from soho.inspection.report import Figure, MetricColumn, MetricRow, MetricTable

# Figures of the test split that are the same for every model.
OF_THE_DATA = ("majority", "examples", "sentences")
COLUMNS = (
    MetricColumn("SOHO", "ours"),
    MetricColumn("no pre-training"),
    MetricColumn("text only"),
    MetricColumn("majority", "chance"),
)


def headlines(result: DemoResult) -> list[Figure]:
    """Return the figures that the reader should see first."""
    ours, pretrain = result.metrics["retrieval"], result.metrics["pretrain"]

    def of_text_only(task: str, label: str) -> Figure:
        blind = result.metrics[f"{task}_text_only"]["accuracy"]
        return Figure(percent(result.metrics[task]["accuracy"]), label, f"text only {percent(blind)}")

    return [
        Figure(percent(ours["tr_r1"]), "text retrieval R@1", f"chance {100 * ours['chance/tr_r1']:.2f} %"),
        Figure(percent(ours["ir_r1"]), "image retrieval R@1", f"chance {100 * ours['chance/ir_r1']:.2f} %"),
        of_text_only("vqa", "VQA accuracy"),
        of_text_only("nlvr2", "NLVR2 accuracy"),
        of_text_only("snli_ve", "SNLI-VE accuracy"),
        Figure(
            percent(pretrain["mvm_accuracy"]),
            "masked visual modelling",
            f"most frequent code {percent(pretrain['mvm_majority'])}, perplexity {pretrain['perplexity']:.0f}",
        ),
    ]


def percent(value: float) -> str:
    """Write a fraction as percent."""
    return f"{100 * value:.1f} %"


def overview(result: DemoResult) -> MetricTable:
    """Return all four tasks beside their baselines."""
    ours, plain = result.metrics["retrieval"], result.metrics["retrieval_no_pretraining"]
    rows = [
        MetricRow(title, [ours[key], plain[key], None, ours[f"chance/{key}"]])
        for key, title in (("tr_r1", "text retrieval R@1"), ("ir_r1", "image retrieval R@1"))
    ]
    for task, title in (("vqa", "VQA accuracy"), ("nlvr2", "NLVR2 accuracy"), ("snli_ve", "SNLI-VE accuracy")):
        rows.append(MetricRow(title, _beside(result, task, "accuracy")))
    columns = [*COLUMNS[:3], MetricColumn("majority; retrieval: chance", "chance")]
    note = (
        "No pre-training: the same fine-tuning from random weights. Text only: pre-trained and fine-tuned in the same "
        "way, but on grey images. Retrieval has no such model: without images it cannot tell one from another. "
        "Majority: always the most frequent training answer."
    )
    return MetricTable("Four tasks on unseen images", columns, rows, note)


def vqa(result: DemoResult) -> MetricTable:
    """Return VQA accuracy overall and by type."""
    return _classification(result, "vqa", "VQA accuracy on unseen images, overall and by type")


def nlvr2(result: DemoResult) -> MetricTable:
    """Return NLVR2 accuracy and consistency."""
    figures = result.metrics["nlvr2"]
    title = f"NLVR2, {figures['examples']:.0f} examples of unseen images, {figures['sentences']:.0f} sentences"
    return _classification(result, "nlvr2", title)


def snli_ve(result: DemoResult) -> MetricTable:
    """Return SNLI-VE accuracy, overall and by label."""
    title = f"SNLI-VE, {result.metrics['snli_ve']['examples']:.0f} sentences about unseen images, overall and by label"
    return _classification(result, "snli_ve", title)


def _classification(result: DemoResult, task: str, title: str) -> MetricTable:
    keys = [key for key in result.metrics[task] if key not in OF_THE_DATA]
    rows = [MetricRow(_name(key), _beside(result, task, key)) for key in keys]
    return MetricTable(title, COLUMNS, rows)


def _beside(result: DemoResult, task: str, key: str) -> list[float | None]:
    """Return a figure of the task's runs in the order of `COLUMNS`."""
    runs = [result.metrics[name] for name in (task, f"{task}_no_pretraining", f"{task}_text_only")]
    return [*(run.get(key) for run in runs), runs[0]["majority"] if key == "accuracy" else None]


def _name(key: str) -> str:
    """Name a figure: "number" for `answer_type/number`, "neutral" for `neutral/accuracy`."""
    return key.removesuffix("/accuracy").split("/")[-1]


def retrieval(result: DemoResult) -> MetricTable:
    """Return recalls and median ranks of both directions."""
    ours, plain = result.metrics["retrieval"], result.metrics["retrieval_no_pretraining"]
    names = {
        "tr_r1": "text retrieval R@1", "tr_r5": "text retrieval R@5", "tr_r10": "text retrieval R@10",
        "ir_r1": "image retrieval R@1", "ir_r5": "image retrieval R@5", "ir_r10": "image retrieval R@10",
    }  # fmt: skip
    rows = [MetricRow(title, [ours[key], plain[key], ours[f"chance/{key}"]]) for key, title in names.items()]
    for key, title in (
        ("tr_median_rank", "text retrieval median rank"),
        ("ir_median_rank", "image retrieval median rank"),
    ):
        values = [ours[key], plain[key], ours[f"chance/{key}"]]
        rows.append(MetricRow(title, values, unit="number", higher_is_better=False))
    columns = [MetricColumn("SOHO", "ours"), MetricColumn("no pre-training"), MetricColumn("chance", "chance")]
    note = "Test pictures come in groups that differ in one thing, so their captions differ in one word."
    title = f"{ours['images']:.0f} unseen pictures, {ours['texts']:.0f} captions"
    return MetricTable(title, columns, rows, note)


def pretraining(result: DemoResult) -> MetricTable:
    """Return the three objectives on the validation split."""
    figures = result.metrics["pretrain"]
    rows = [
        MetricRow("masked words", [figures["mlm_accuracy"], None]),
        MetricRow("masked visual tokens", [figures["mvm_accuracy"], figures["mvm_majority"]]),
        MetricRow("image-text matching", [figures["itm_accuracy"], 0.5]),
        MetricRow("perplexity of the dictionary", [figures["perplexity"], 1.0], unit="number"),
    ]
    columns = [MetricColumn("SOHO", "ours"), MetricColumn("always the same guess", "chance")]
    return MetricTable("The three pre-training tasks on unseen pictures", columns, rows)


def for_terminal(table: MetricTable) -> Table:
    """Return a table of the page as a table for the terminal; a dash where there is no figure."""
    shown = Table(title=table.title, caption=table.note)
    shown.add_column("")
    for column in table.columns:
        shown.add_column(column.name, justify="right")
    for row in table.rows:
        values = ["–" if value is None else format_value(value, row.unit == "percent") for value in row.values]
        shown.add_row(row.name, *values)
    return shown
