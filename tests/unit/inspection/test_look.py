"""`soho dictionary` and `soho attention` end to end on tiny models, and what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from soho.models import SohoForImageTextRetrieval, SohoForPreTraining, SohoForQuestionAnswering, SohoForVisualReasoning
from tests.support import Soho
from tests.unit.inspection.tiny_pipeline import colour_pipeline, painted, save, tiny_pipeline


def sentence(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 1, err
    assert err.startswith("soho: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    return err.removeprefix("soho: ").rstrip("\n")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny random models; `pretrain` gives cells the codes of their colours."""
    folder = tmp_path_factory.mktemp("models")
    save(tiny_pipeline(SohoForPreTraining), folder / "pretrain")
    save(tiny_pipeline(SohoForPreTraining, use_dictionary=False), folder / "without")
    save(tiny_pipeline(SohoForImageTextRetrieval, visual_input="features"), folder / "retrieval")
    save(tiny_pipeline(SohoForQuestionAnswering), folder / "vqa")
    save(tiny_pipeline(SohoForVisualReasoning, fusion_start=1), folder / "nlvr2")
    save(colour_pipeline(), folder / "colours")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pictures of one colour each, red and green, and one that is broken."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(14):
        code = number % 2
        painted([[code] * 3, [code] * 3], (192, 128), 64).save(folder / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def captions(folder: Path, path: Path) -> Path:
    rows = [
        {"image": f"{number:02}.png", "captions": [f"a {('red', 'green')[number % 2]} wall", "a picture"]}
        for number in range(14)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_dictionary_with_captions(soho: Soho, models: Path, images: Path, tmp_path: Path) -> None:
    path = captions(images, tmp_path / "captions.jsonl")
    options = ("--trust-remote-code", "--out", tmp_path / "out", "--captions", path, "--order", "use")
    code, out, err = soho("dictionary", models / "colours", images, *options)
    assert code == 0, err
    assert out.splitlines() == [
        "14 pictures, 84 cells, 14 of the pictures with captions",
        "2 of 5 codes used, 3 dead, perplexity 2, most used code 50.0% of cells",
        f"1 broken picture left out: {images / 'broken.png'}: is not a picture in any format that Pillow reads",
        str(tmp_path / "out" / "dictionary.png"),
        str(tmp_path / "out" / "dictionary.html"),
    ]
    assert "image" in err  # the progress bar
    page = (tmp_path / "out" / "dictionary.html").read_text(encoding="utf-8")
    assert page.count("×2.0") == 2
    assert page.count("data:image/jpeg") == 14  # seven pictures a code, one patch each
    sheet = Image.open(tmp_path / "out" / "dictionary.png").convert("RGB")
    found = {colour for _, colour in sheet.getcolors(1 << 20) or ()}
    assert {(210, 30, 30), (30, 200, 30)} <= found


def test_dictionary_with_the_captions_of_a_recipe(soho: Soho, models: Path, images: Path, tmp_path: Path) -> None:
    path = captions(images, tmp_path / "captions.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text('{"image": "elsewhere.png", "caption": "a ball"}')
    recipe = tmp_path / "recipe.yaml"
    data = {
        "train": [{"format": "jsonl", "annotations": str(other)}],
        "test": [{"format": "jsonl", "annotations": str(path), "images": "/not/there"}],
    }
    recipe.write_text(json.dumps({"task": "pretraining", "output": str(tmp_path / "run"), "data": data}))
    options = ("--trust-remote-code", "--out", tmp_path / "out", "--recipe", recipe, "--codes", "1", "--patches", "2")
    code, out, err = soho("dictionary", models / "colours", images, *options)
    assert code == 0, err
    assert "14 of the pictures with captions" in out
    assert re.search(r"captions that were not used: jsonl: .*other\.jsonl", out)
    assert (tmp_path / "out" / "dictionary.html").read_text(encoding="utf-8").count("data:image/jpeg") == 2


def test_dictionary_messages(soho: Soho, models: Path, images: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "this model has no visual dictionary" in sentence(soho("dictionary", models / "without", images, *out))
    said = sentence(soho("dictionary", models / "pretrain", tmp_path / "gone", *out))
    assert (
        said == f"images: {tmp_path / 'gone'} does not exist; expected a picture, a folder or a .zip file of pictures"
    )
    said = sentence(soho("dictionary", models / "pretrain", images, *out, "--order", "best"))
    assert said == "order 'best' is not known; expected random or use"
    both = ("--captions", tmp_path / "a.jsonl", "--recipe", tmp_path / "a.yaml")
    assert "not both" in sentence(soho("dictionary", models / "pretrain", images, *out, *both))
    said = sentence(soho("dictionary", models / "pretrain", images, *out, "--captions", tmp_path / "a.jsonl"))
    assert "a.jsonl" in said
    assert "holds no model configuration" in sentence(soho("dictionary", tmp_path, images, *out))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["pretrain", "retrieval"])
def test_attention_to_a_match(soho: Soho, models: Path, images: Path, tmp_path: Path, folder: str) -> None:
    text = "a red ball and two <stars>"
    code, out, err = soho("attention", models / folder, images / "00.png", text, "--out", tmp_path / "out")
    assert code == 0, err
    lines = out.splitlines()
    assert re.fullmatch(r"output: match \(\d+\.\d%\); words in layer 2 of 3, whole text in layer 3", lines[0])
    assert [line.split(":")[0].split(" ")[0] for line in lines[1:7]] == ["a", "red", "ball", "and", "two", "stars"]
    assert lines[-2:] == [str(tmp_path / "out" / "attention.png"), str(tmp_path / "out" / "attention.html")]
    page = (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 1 + 2 * 7  # the picture; two maps of the whole text and of six words
    assert "&lt;stars&gt;" in page
    assert "<stars>" not in page
    with Image.open(tmp_path / "out" / "attention.png") as sheet:
        assert sheet.size == (30 + 5 * 186, 20 + 30 + 18 + 16 + 2 * (2 * (117 + 22) + 28 + 10) + 10)


def test_attention_to_an_answer(soho: Soho, models: Path, images: Path, tmp_path: Path) -> None:
    options = ("--question", "is there a red star?", "--word", "red star", "--word", "there", "--target", "two")
    code, out, err = soho("attention", models / "vqa", images / "00.png", *options, "--out", tmp_path)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("output: two (")
    assert lines[1].startswith("red star: ")
    assert lines[2].startswith("there")
    assert (tmp_path / "attention.png").is_file()


def test_attention_to_two_pictures(soho: Soho, models: Path, images: Path, tmp_path: Path) -> None:
    options = ("--second", images / "01.png", "--out", tmp_path, "--rollout", "--layer", "3")
    code, out, err = soho("attention", models / "nlvr2", images / "00.png", "two green stars", *options)
    assert code == 0, err
    assert "words in layer 3 of 3" in out
    assert "of its attention goes to the pictures" in out
    assert "reads only the [CLS] row of the last layer" in out
    page = (tmp_path / "attention.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 * (1 + 2 * 4)
    assert "left picture" in page
    assert "right picture" in page


def test_attention_messages(soho: Soho, models: Path, images: Path, tmp_path: Path) -> None:
    picture, out = images / "00.png", ("--out", tmp_path / "out")
    retrieval = models / "retrieval"
    said = sentence(soho("attention", retrieval, picture, "a red ball", "--word", "dog", *out))
    assert said == "the word 'dog' does not occur in the text 'a red ball'; its words are a, red, ball"
    said = sentence(soho("attention", retrieval, picture, *out))
    assert said == "give either TEXT or --question, what is to be read against the picture"
    said = sentence(soho("attention", retrieval, picture, "--question", "is there a ball?", *out))
    assert said == f"{retrieval} does not answer questions; give the text without --question"
    said = sentence(soho("attention", models / "nlvr2", picture, "two balls", *out))
    assert said.endswith("give the right picture too (--second)")
    said = sentence(soho("attention", retrieval, tmp_path / "gone.png", "a ball", *out))
    assert said == f"{tmp_path / 'gone.png'} is not a file; expected a picture"
    assert not (tmp_path / "out").exists()


def test_the_commands_explain_themselves(soho: Soho) -> None:
    for command, words in (
        ("dictionary", ("--out", "--captions", "--recipe", "--codes", "--order", "--seed")),
        ("attention", ("--word", "--question", "--second", "--target", "--layer", "--rollout")),
    ):
        code, out, _ = soho(command, "--help")
        assert code == 0
        assert [word for word in words if word not in out] == []
