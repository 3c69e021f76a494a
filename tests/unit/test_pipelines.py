"""A picture and a text in, a match score or an answer out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import soho
from soho import SohoForQuestionAnswering, SohoModel
from soho.errors import SohoError
from soho.pipelines import SohoPipeline


@pytest.fixture(scope="module")
def picture(world: Path) -> Path:
    return sorted((world / "images" / "val2014").iterdir())[0]


def test_match_scores_every_text_alone(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "retrieval" / "model")
    texts = ["a red ball", "two green stars on a beach", "a"]
    together = pipeline.match(picture, texts)
    assert [prediction.text for prediction in together] == texts
    for text, prediction in zip(texts, together):
        assert 0 < prediction.probability < 1
        alone = pipeline.match(str(picture), text)
        assert len(alone) == 1
        assert alone[0].probability == pytest.approx(prediction.probability, abs=1e-5)
    assert len({round(prediction.probability, 7) for prediction in together}) == 3
    assert pipeline(picture, texts[0]) == pipeline.match(picture, texts[0])


def test_match_is_the_softmax_of_the_models_logits(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "pretraining" / "model")  # it holds the match head
    batch = pipeline.processor(images=Image.open(picture), text=["a red ball"])
    with torch.no_grad():
        logits = pipeline.model(**batch, pair_image_index=torch.tensor([0])).logits[0]
    expected = float((logits[1] - logits[0]).sigmoid())
    assert pipeline.match(picture, "a red ball")[0].probability == pytest.approx(expected, abs=1e-6)


def test_answers_come_best_first(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "vqa" / "model")
    question = "what color is the ball?"
    best = pipeline.answer(picture, question)
    assert len(best) == 3
    assert best[0].probability >= best[1].probability >= best[2].probability
    model = pipeline.model
    assert isinstance(model, SohoForQuestionAnswering)
    assert {prediction.text for prediction in best} <= set(model.config.answers)
    everything = pipeline.answer(Image.open(picture), question, top=10_000)
    assert sorted(prediction.text for prediction in everything) == sorted(model.config.answers)
    assert everything[:3] == best
    assert pipeline(picture, question) == best
    assert not model.training


def test_load_takes_the_fast_settings_and_stays_near_float32(trained: Path, picture: Path) -> None:
    for folder, text in (("vqa", "what color is the ball?"), ("retrieval", "a red ball"), ("snli_ve", "a ball")):
        exact = SohoPipeline.from_pretrained(trained / folder / "model")
        fast = soho.load(trained / folder / "model", device="cpu")
        assert type(fast.model) is type(exact.model)
        assert exact.fast is None
        assert fast.fast is not None
        assert fast.fast.folded_norms > 0
        expected = {one.text: one.probability for one in exact(picture, text)}
        found = {one.text: one.probability for one in fast(picture, text)}
        for name in expected.keys() & found.keys():  # answers of nearly one probability may change places
            assert found[name] == pytest.approx(expected[name], abs=0.02)
        assert expected.keys() & found.keys()


def test_the_wrong_verb(trained: Path, picture: Path) -> None:
    with pytest.raises(SohoError, match="this model scores pairs; use `match`"):
        SohoPipeline.from_pretrained(trained / "retrieval" / "model").answer(picture, "what?")
    with pytest.raises(SohoError, match="this model answers questions; use `answer`"):
        SohoPipeline.from_pretrained(trained / "vqa" / "model").match(picture, "a ball")


def test_a_sentence_about_two_pictures(trained: Path, world: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "nlvr2" / "model")
    other = sorted((world / "images" / "val2014").iterdir())[3]
    sentence = "both images show a ball"
    judged = pipeline.judge(picture, other, sentence)
    assert {prediction.text for prediction in judged} == {"true", "false"}
    assert judged[0].probability >= judged[1].probability
    left, right = (pipeline.processor(images=Image.open(path), text=[sentence]) for path in (picture, other))
    with torch.no_grad():
        second = {"pixel_values_2": right["pixel_values"], "pixel_mask_2": right["pixel_mask"]}
        logits = pipeline.model(**left, **second).logits[0]
    expected = float((logits[1] - logits[0]).sigmoid())  # class 1 is "true"
    said = {prediction.text: prediction.probability for prediction in judged}
    assert said["true"] == pytest.approx(expected, abs=1e-6)
    assert said["false"] == pytest.approx(1 - expected, abs=1e-6)
    assert pipeline(picture, sentence, other) == judged
    with pytest.raises(
        SohoError, match=r"judges sentences about two pictures; give the right picture too \(--second\)"
    ):
        pipeline(picture, sentence)


def test_what_a_picture_entails(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "snli_ve" / "model")
    found = pipeline.entail(picture, "there is a ball")
    assert {prediction.text for prediction in found} == {"entailment", "neutral", "contradiction"}
    assert sum(prediction.probability for prediction in found) == pytest.approx(1)
    assert found == sorted(found, key=lambda prediction: -prediction.probability)
    batch = pipeline.processor(images=Image.open(picture), text=["there is a ball"])
    with torch.no_grad():
        shares = pipeline.model(**batch).logits[0].softmax(0).tolist()
    said = {prediction.text: prediction.probability for prediction in found}
    assert [said[name] for name in ("entailment", "neutral", "contradiction")] == pytest.approx(shares, abs=1e-6)
    assert pipeline(picture, "there is a ball") == found
    with pytest.raises(
        SohoError, match="judges what a picture entails and reads one picture; leave the second one out"
    ):
        pipeline(picture, "there is a ball", picture)
    with pytest.raises(
        SohoError, match="this model judges what a picture entails; use `entail`, or load a visual-reas"
    ):
        pipeline.judge(picture, picture, "there is a ball")


def test_bad_folders(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"gone is not a folder; expected one that a SOHO run wrote"):
        SohoPipeline.from_pretrained(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SohoError, match="empty holds no model configuration") as caught:
        SohoPipeline.from_pretrained(tmp_path / "empty")
    assert "\n" not in str(caught.value)
    trunk = SohoModel.from_pretrained(trained / "pretraining" / "model")
    trunk.save_pretrained(tmp_path / "trunk")
    with pytest.raises(SohoError, match="holds a SohoModel, which cannot predict; expected one of SohoForPreTraining"):
        SohoPipeline.from_pretrained(tmp_path / "trunk")


def test_bad_pictures(trained: Path, tmp_path: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "retrieval" / "model")
    with pytest.raises(SohoError, match=r"gone\.jpg is not a file; expected a picture"):
        pipeline(tmp_path / "gone.jpg", "a ball")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(SohoError, match=r"text\.jpg"):
        pipeline(tmp_path / "text.jpg", "a ball")
    grey = Image.new("L", (90, 60), 7)  # any mode will do
    assert 0 < pipeline(grey, "a ball")[0].probability < 1
