"""Every benchmark runs at tiny size, and its sides agree where they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import dictionary, input_pipeline, pretraining_step, retrieval_scoring
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.options import Options
from benchmarks.subjects import TINY, padded, pretraining_batch, texts
from benchmarks.timing import Clock
from soho.models import SohoForImageTextRetrieval

CLOCK = Clock(torch.device("cpu"))


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(Options, "dtype", torch.float32)  # so that sides can be compared
    return Options(quick=True, rounds=1, compiled=False)


def retrieval_model() -> SohoForImageTextRetrieval:
    torch.manual_seed(0)
    return SohoForImageTextRetrieval(TINY.config(visual_input="features")).eval()


def test_all_ways_of_scoring_give_the_same_scores(options: Options) -> None:
    model, words = retrieval_model(), texts(6, 200)
    ours = torch.from_numpy(retrieval_scoring.our_scores(model, 2, words, options).copy())
    assert ours.shape == (2, 6)
    assert ours.std() > 1e-3
    torch.testing.assert_close(retrieval_scoring.cached_scores(model, 2, words, options), ours, rtol=1e-4, atol=1e-5)
    whole = retrieval_scoring.whole_scores(model, 3, words, options)
    torch.testing.assert_close(whole, ours[0, :3], rtol=1e-4, atol=1e-5)
    release = retrieval_scoring.release_scores(model, 3, words, options)
    torch.testing.assert_close(release, ours[0, :3], rtol=1e-4, atol=1e-5)


def test_two_rectangles_tell_the_cost_of_a_picture_and_of_a_pair() -> None:
    # 2 seconds a picture, 0.5 a pair.
    picture, pair = retrieval_scoring.two_costs((2, 10, 4 + 5), (4, 40, 8 + 20))
    assert (picture, pair) == (pytest.approx(2.0), pytest.approx(0.5))
    remarks = retrieval_scoring.coco_remarks(picture, pair, 1e9)
    assert f"{(5000 * 2 + 5000 * 25010 * 0.5) / 3600:.1f} h here" in remarks[0]
    assert f"{5000 * 25010 * 1e9 / 989e12 / 60:.1f} min at the peak" in remarks[1]


def test_growth_is_measured(options: Options) -> None:
    options.cases = ("growth",)
    outcome = retrieval_scoring.run(options)
    assert [row.case for row in outcome.rows] == ["growth, tiny, 2 x 4", "growth, tiny, 4 x 8"]
    assert all(row.peak_megabytes is not None for row in outcome.rows)
    assert len(outcome.checks) == 1


def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = 3 * torch.randn(8, 16, generator=generator)
    features = codes[torch.arange(24) % 7] + 0.1 * torch.randn(24, 16, generator=generator)
    return features.view(3, 8, 16), codes


def test_all_dictionaries_find_the_same_codes() -> None:
    features, codes = clusters()
    expected = torch.arange(24) % 7
    assert torch.equal(dictionary.our_step(features, codes)(CLOCK), expected)
    assert torch.equal(dictionary.release_step(features, codes)(CLOCK), expected)


def test_the_other_codebook_finds_them_too() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    features, codes = clusters()
    assert torch.equal(dictionary.other_step(features, codes)(CLOCK), torch.arange(24) % 7)


def test_both_training_steps_learn(options: Options) -> None:
    torch.manual_seed(0)
    batch = pretraining_batch(2, 96, 128, TINY.config().vocab_size)
    for make in (pretraining_step.our_step, pretraining_step.release_step):
        step = make(TINY, batch, options)
        losses = [step(CLOCK) for _ in range(6)]
        assert min(losses[1:]) < losses[0]  # a few steps on one batch


def test_texts_are_padded_to_sixteen() -> None:
    ids, mask = texts(5, 200)
    assert int(mask.sum(1).min()) >= 8
    assert ids.shape == mask.shape
    assert ((ids != 0).long() == mask).all()
    assert [one.shape for one in padded(ids, mask)] == [(5, 16), (5, 16)]


def test_a_step_is_fed_by_the_loader(tmp_path: Path, options: Options) -> None:
    files = input_pipeline.photographs(tmp_path / "photos", 96, 64, 2)
    step, share = input_pipeline.waiting_share(options, files, (96, 64), workers=0)
    assert step > 0
    assert 0 < share < 1


def test_the_command_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inference", "--quick", "--cases", "batch 1", "--sides", "ours; picture", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "| tiny, batch 1 | ours | cnn |" in told
    assert "release order" not in told
    assert "QUICK" in told
    assert "matmul" in told
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "checks.csv", "results.md", "results.svg"}


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--out", str(tmp_path)]) == 2
    assert f"expected some of {', '.join(BENCHMARKS)}" in capsys.readouterr().err
    assert main(["dictionary", "--quick", "--sides", "theirs", "--out", str(tmp_path)]) == 1
    assert "names no side of this benchmark" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["inference", "pretraining", "dictionary"])
def test_every_side_runs(name: str, options: Options) -> None:
    told: list[int] = []
    options.after_case = lambda outcome: told.append(len(outcome.rows))
    outcome = BENCHMARKS[name](options)
    assert told[-1] == len(outcome.rows) > 0  # each case is reported as soon as it is there
    assert told == sorted(set(told))
    found = {row.side for row in outcome.rows}
    assert {"ours", "release order"} <= found
    if name == "inference":
        assert {"ViLT-B/32", "regions, batched NMS", "regions, class-by-class NMS", "matmul float32"} <= found
        assert any("'proposals': 20" in remark for remark in outcome.remarks)
        assert all(row.ratio is not None for row in outcome.rows if row.side == "ViLT-B/32" and not row.part)
