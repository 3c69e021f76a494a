"""A picture and a text in, a match score or an answer out."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import soho
from soho import SohoForQuestionAnswering, SohoModel
from soho.errors import SohoError
from soho.pipelines import ABILITIES, Prediction, SohoPipeline, abilities_of, open_picture
from tests.support import Soho


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
    judged = pipeline.compare(picture, other, sentence)
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
    found = pipeline.entails(picture, "there is a ball")
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
        SohoError, match="this model judges what a picture entails; use `entails`, or load a visual-reas"
    ):
        pipeline.compare(picture, picture, "there is a ball")


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


def close(found: list[Prediction], expected: list[Prediction]) -> bool:
    """Say whether the same was said with the same probabilities; nearly equal ones may have changed places."""
    left, right = ({one.text: one.probability for one in side} for side in (found, expected))
    return left == pytest.approx(right, abs=1e-5)


@pytest.fixture(scope="module")
def pictures(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven pictures of three padded shapes (192x128, 128x128, 128x192 in the model's settings), in mixed order."""
    folder = tmp_path_factory.mktemp("pictures")
    corners = [(256, 192), (192, 192), (128, 192), (256, 192), (128, 192), (192, 192), (256, 192)]
    found = []
    for path, (width, height) in zip(sorted((world / "images" / "val2014").iterdir()), corners):
        found.append(folder / f"{path.stem}.png")
        with Image.open(path) as picture:
            picture.crop((0, 0, width, height)).save(found[-1])
    return found


@pytest.mark.parametrize("batch_size", [1, 3])
def test_lists_say_what_each_picture_says_alone(trained: Path, pictures: list[Path], batch_size: int) -> None:
    texts = ["what color is the ball?", "is there a star?", *["how many fish are there, or boats?"] * 5]
    vqa = SohoPipeline.from_pretrained(trained / "vqa" / "model")
    every = vqa.answer(pictures, texts, top=100, batch_size=batch_size)
    assert len(every) == 7
    for path, text, found in zip(pictures, texts, every):
        assert close(found, vqa.answer(path, text, top=100))
    shared = vqa.answer(pictures, texts[0], top=2)
    assert [len(found) for found in shared] == [2] * 7
    assert close(vqa.answer(tuple(pictures), texts[0], top=100)[4], vqa.answer(pictures[4], texts[0], top=100))
    assert vqa.answer([], texts[0]) == []

    retrieval = SohoPipeline.from_pretrained(trained / "retrieval" / "model")
    matched = retrieval.match(pictures, texts, batch_size=batch_size)
    assert [[one.text for one in found] for found in matched] == [[text] for text in texts]
    assert all(close(found, retrieval.match(path, text)) for found, path, text in zip(matched, pictures, texts))

    judged = SohoPipeline.from_pretrained(trained / "snli_ve" / "model").entails(pictures, "a ball")
    alone = SohoPipeline.from_pretrained(trained / "snli_ve" / "model").entails(pictures[6], "a ball")
    assert close(judged[6], alone)


def test_lists_of_pairs(trained: Path, pictures: list[Path]) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "nlvr2" / "model")
    rights = pictures[::-1]
    for path, other, found in zip(pictures, rights, pipeline.compare(pictures, rights, "both show a ball")):
        assert close(found, pipeline.compare(path, other, "both show a ball"))
    several = pipeline.compare(pictures[0], pictures[3], ["both show a ball", "there is a star"])
    assert close(several[1], pipeline.compare(pictures[0], pictures[3], "there is a star"))
    with pytest.raises(SohoError, match="7 left and 2 right pictures were given; expected as many"):
        pipeline.compare(pictures, pictures[:2], "both show a ball")
    with pytest.raises(SohoError, match="a list of pictures and a single picture were given"):
        pipeline.compare(pictures, pictures[0], "both show a ball")  # type: ignore[call-overload]


def test_one_picture_and_many_texts(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "retrieval" / "model")
    texts = [f"{'a red ' * (number % 3)}ball {number}" for number in range(130)]  # more than go through fusion at once
    together = pipeline.match(picture, texts)
    assert [one.text for one in together] == texts
    for row in (0, 63, 64, 129):
        assert close([together[row]], pipeline.match(picture, texts[row]))
    vqa = SohoPipeline.from_pretrained(trained / "vqa" / "model")
    answers = vqa.answer(picture, ["what color is the ball?", "is there a star?"], top=100)
    assert close(answers[1], vqa.answer(picture, "is there a star?", top=100))
    assert [len(answer) for answer in vqa.answer(picture, ["is there a star?"], top=1)] == [1]


def test_numbers_that_do_not_agree(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "vqa" / "model")
    with pytest.raises(SohoError, match="3 pictures and 2 texts were given; expected one text for all, or one for eac"):
        pipeline.answer([picture] * 3, ["a?", "b?"])
    with pytest.raises(SohoError, match="a text is of type int; expected str"):
        pipeline.answer(picture, 3)  # type: ignore[call-overload]
    with pytest.raises(SohoError, match="top=0 must be at least 1"):
        pipeline.answer(picture, "a?", top=0)
    with pytest.raises(SohoError, match="batch_size=0 must be at least 1"):
        pipeline.answer([picture], "a?", batch_size=0)


def test_a_path_bytes_and_a_pillow_picture_are_the_same_picture(tmp_path: Path) -> None:
    upright = Image.new("RGB", (6, 4), "blue")
    upright.putpixel((0, 0), (255, 0, 0))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    path = tmp_path / "turned.png"
    lying.save(path, exif=exif)
    for given in (path, str(path), path.read_bytes(), Image.open(path)):
        found = open_picture(given)
        assert found.size == (6, 4)
        assert found.getpixel((0, 0)) == (255, 0, 0)
        assert open_picture(found).getpixel((0, 0)) == (255, 0, 0)  # it is not turned again
    # A picture that is upright already is left as it was, with all that its owner keeps in it.
    upright.info["mine"] = "kept"
    assert open_picture(upright) is not upright
    assert upright.info["mine"] == "kept"
    glass = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert open_picture(glass).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(SohoError, match=r"picture 2 \(7 bytes\): is not a picture in any format"):
        open_picture(b"nothing", "picture 2")
    with pytest.raises(SohoError, match="the picture is of type int; expected a path, bytes or a Pillow picture"):
        open_picture(7)  # type: ignore[arg-type]


def test_bytes_go_through_the_verbs(trained: Path, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(trained / "retrieval" / "model")
    expected = pipeline.match(picture, "a ball")
    assert pipeline.match(picture.read_bytes(), "a ball") == expected
    assert pipeline.search("a ball", [picture.read_bytes()])[0][0].probability == pytest.approx(
        expected[0].probability, abs=1e-6
    )
    with pytest.raises(SohoError, match=r"picture 2 \(4 bytes\): is not a picture"):
        pipeline.match([picture, b"none"], "a ball")


def test_what_a_folder_can_do() -> None:
    assert [one.verb for one in ABILITIES] == ["match", "answer", "compare", "entails"]
    assert [one.task for one in abilities_of(["SohoForPreTraining"])] == ["retrieval"]
    both = abilities_of(["SohoForQuestionAnswering", "SohoForVisualEntailment", "SomethingElse"])
    assert [one.task for one in both] == ["vqa", "snli_ve"]
    assert abilities_of(["SohoModel"]) == ()


def test_a_task_that_a_folder_does_not_have(trained: Path) -> None:
    folder = trained / "vqa" / "model"
    assert SohoPipeline.from_pretrained(folder, task="vqa").abilities[0].task == "vqa"
    with pytest.raises(SohoError, match="model can do vqa, not nlvr2"):
        SohoPipeline.from_pretrained(folder, task="nlvr2")
    with pytest.raises(SohoError, match="there is no task 'poetry' to predict; expected one of retrieval, vqa"):
        SohoPipeline.from_pretrained(folder, task="poetry")


def test_a_head_that_is_promised_but_not_there(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "vqa" / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["architectures"].append("SohoForVisualEntailment")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SohoError, match="says that it judges what a picture entails, but its weights hold no entail"):
        SohoPipeline.from_pretrained(tmp_path / "model")


def test_a_hub_id_that_is_not_there() -> None:
    with pytest.raises(SohoError, match=r"nobody/nothing is neither a folder that a SOHO run wrote .* nor a model"):
        SohoPipeline.from_pretrained("nobody/nothing")


def test_a_mistyped_folder_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SohoError, match=r"^runs/modl is not a folder; expected one that a SOHO run wrote"):
        SohoPipeline.from_pretrained("runs/modl")


def test_an_empty_text_is_refused(trained: Path, pictures: list[Path]) -> None:
    with pytest.raises(SohoError, match="a text is empty; expected a question or a sentence"):
        SohoPipeline.from_pretrained(trained / "vqa" / "model").answer(pictures[0], "  ")


def test_predict_prints_one_json_document(soho: Soho, trained: Path, pictures: list[Path]) -> None:
    model, question = trained / "vqa" / "model", "what color is the ball?"
    code, out, err = soho("predict", model, pictures[0], pictures[1], question, "--json", "--top", "2")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert out.count("\n") == 1
    assert {name: found[name] for name in ("model", "task", "verb")} == {
        "model": str(model),
        "task": "vqa",
        "verb": "answer",
    }
    said = SohoPipeline.from_pretrained(model).answer(pictures[:2], question, top=2)
    assert found["results"] == [
        {"image": str(path), "text": question, "predictions": [asdict(one) for one in answers]}
        for path, answers in zip(pictures, said)
    ]


def test_predict_for_people_and_with_two_pictures(soho: Soho, trained: Path, pictures: list[Path]) -> None:
    code, out, _ = soho("predict", trained / "retrieval" / "model", pictures[0], "a ball")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert out.endswith("  a ball\n")
    model = trained / "nlvr2" / "model"
    code, out, _ = soho("predict", model, pictures[0], "both show a ball", "--second", pictures[1], "--json")
    result = json.loads(out)["results"][0]
    assert (result["image"], result["second"]) == (str(pictures[0]), str(pictures[1]))
    assert {one["text"] for one in result["predictions"]} == {"true", "false"}
    code, out, err = soho("predict", model, *pictures[:2], "both show a ball", "--second", pictures[1], "--json")
    assert (code, out) == (1, "")
    assert err == "soho: 2 left and 1 right pictures were given; expected as many\n"
    code, out, err = soho("predict", trained / "vqa" / "model", pictures[0], "who?", "--task", "snli_ve", "--json")
    assert (code, out) == (1, "")
    assert err.endswith("can do vqa, not snli_ve\n")


def test_the_output_of_a_run_is_no_model_folder_but_holds_one(trained: Path) -> None:
    with pytest.raises(SohoError, match=r"vqa is the output of a run; its model is .*vqa.model$"):
        SohoPipeline.from_pretrained(trained / "vqa")
