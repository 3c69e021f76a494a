"""What `soho serve` needs beside the demonstration's models: an index to search, and examples ready to click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soho.data.schema import ImageRef
from soho.data.sources import load_captions, load_hypotheses, load_questions, load_statements
from soho.demo.stages import demo_recipe
from soho.randomness import keyed_generator
from soho.runs import MODEL_FOLDER
from soho.search import PictureIndex
from soho.serving.examples import write_examples
from soho.serving.shelf import EXAMPLES, INDEX

EACH = 3
# None of its pictures was trained on.
LIBRARY = Path("world/images/val2014")


LOADERS: dict[str, Any] = {
    "retrieval": load_captions,
    "vqa": load_questions,
    "nlvr2": load_statements,
    "snli_ve": load_hypotheses,
}


def prepare_showcase(out: Path, seed: int = 0) -> None:
    """Make or bring up to date `index` and `examples.json` of a finished demonstration.

    Examples are drawn from the test splits, not chosen: models are wrong about some of them.

    Args:
        out: folder of the demonstration.
        seed: of the draws.

    Raises:
        SohoError: the retrieval model or the world is not there.
    """
    PictureIndex.build(out / LIBRARY, out / "retrieval" / MODEL_FOLDER, out / INDEX)

    def drawn(name: str, count: int, number: int) -> list[int]:
        return [int(row) for row in keyed_generator(seed, "showcase", name).permutation(count)[:number]]

    def test(name: str) -> list:  # type: ignore[type-arg]
        source = demo_recipe(f"{name}.yaml", name, out, seed, []).data.test[0]
        examples: list = LOADERS[name](source)[0]  # type: ignore[type-arg]
        return [examples[row] for row in drawn(name, len(examples), 4 * EACH)]

    rows: list[tuple[str, str, list[Path]]] = []
    described = test("retrieval")
    rows += [("search", one.captions[0], []) for one in described[:EACH]]
    rows += [("answer", one.question, [_file(one.image)]) for one in test("vqa")[:EACH]]
    rows += [("compare", one.sentence, [_file(one.image), _file(one.second_image)]) for one in test("nlvr2")[:EACH]]
    rows += [("entails", one.hypothesis, [_file(one.image)]) for one in test("snli_ve")[:EACH]]
    for place in range(EACH):
        # Its own caption between those of two other pictures.
        texts = [described[row].captions[0] for row in (place + EACH, place, place + 2 * EACH)]
        rows.append(("match", "\n".join(texts), [_file(described[place].image)]))
    rows += [("inspect", one.captions[0], [_file(one.image)]) for one in described[EACH : 2 * EACH]]
    write_examples(out / EXAMPLES, rows)


def _file(image: ImageRef) -> Path:
    return Path(image.path)
