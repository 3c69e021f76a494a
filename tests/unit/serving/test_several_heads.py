"""One folder with the heads of all tasks: each request reads the head that it asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from soho.errors import SohoError
from soho.inspection.attention import word_maps
from soho.pipelines import SohoPipeline
from soho.search import PictureIndex
from soho.serving.command import open_house
from soho.serving.limits import Settings
from tests.unit.search.small import fill
from tests.unit.serving.small import HEADS, make_joined, serving

VERBS = {"vqa": "answer", "nlvr2": "compare", "snli_ve": "entails", "retrieval": "match"}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_joined(tmp_path_factory.mktemp("heads"))
    fill(folder / "pictures")
    return folder


def test_each_verb_is_looked_into_with_its_own_head(heads: Path, jpeg: tuple[str, bytes]) -> None:
    picture = heads / "pictures" / "p00.jpg"
    with serving(open_house([heads / "joined"], None, None, Settings())) as client:
        served = {one["verb"]: one["kind"] for one in client.get("/api/models").json["models"]}
        assert served == {verb: HEADS[task].__name__ for task, verb in VERBS.items()}
        for task, verb in VERBS.items():
            second = picture if verb == "compare" else None
            pipeline = SohoPipeline.from_pretrained(heads / task / "model")
            expected = word_maps(pipeline, picture, "a red star", second=second)
            fields = [("image", jpeg), ("text", "a red star"), ("verb", verb)]
            if second is not None:
                fields.append(("second", jpeg))
            said = client.post("/api/attention", fields).json
            assert said["target"] == expected.target
            assert said["probability"] == pytest.approx(expected.probability, abs=1e-5)
            found = np.array(said["pictures"][0]["whole"]["gradient"])
            assert found == pytest.approx(expected.whole_gradient, abs=1e-7)
            assert len(said["pictures"]) == (2 if verb == "compare" else 1)
        # Nobody says whose model: that of a matching head, which is not the first of the folder.
        assert client.post("/api/attention", fields[:2]).json["verb"] == "match"


def test_a_head_alone(heads: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(heads / "joined")
    one = pipeline.head("entails")
    assert [ability.verb for ability in one.abilities] == ["entails"]
    assert one.model.trunk is pipeline.model.trunk
    assert (one.folder, one.fast, one.processor) == (pipeline.folder, None, pipeline.processor)
    assert one.head("entails") is one
    with pytest.raises(SohoError, match="this model judges what a picture entails; use `entails`, or load a question"):
        one.head("answer")
    with pytest.raises(SohoError, match="there is no verb 'guess'; expected one of match, answer, compare, entails"):
        pipeline.head("guess")
    quick = pipeline.speed_up().head("compare")
    assert quick.fast is pipeline.fast is not None


def test_an_index_knows_its_model_alone_and_among_other_heads(heads: Path, tmp_path: Path) -> None:
    library, alone, joined = heads / "pictures", heads / "retrieval" / "model", heads / "joined"
    one = PictureIndex.build(library, alone, tmp_path / "one", progress=False)
    other = PictureIndex.build(library, joined, tmp_path / "other", progress=False)
    assert one.fingerprint == other.fingerprint
    expected = one.search("a red star")[0]
    for index, model in ((one, joined), (other, alone), (other, None)):
        found = PictureIndex.open(index.folder, model).search("a red star")[0]
        assert [hit.path for hit in found] == [hit.path for hit in expected]
        assert [hit.probability for hit in found] == pytest.approx([hit.probability for hit in expected], rel=1e-4)
    house = open_house([joined], tmp_path / "one", None, Settings())
    house.close()
    assert house.index is not None
    assert house.index.pipeline.folder == joined  # not loaded once more from where the index remembers it
    with pytest.raises(SohoError, match="SohoForQuestionAnswering, which scores no pairs; expected a retrieval model"):
        PictureIndex.open(tmp_path / "one", heads / "vqa" / "model")
