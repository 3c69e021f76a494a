"""What the API sends, as pydantic models; the OpenAPI schema is made of them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from soho.inspection.attention import Map, WordMaps
from soho.pipelines import Prediction

# A map or probability has no more digits than these.
DIGITS = 5


class ErrorReply(BaseModel):
    """Why a request was not carried out."""

    error: str = Field(description="One sentence.")


class Scored(BaseModel):
    """A text and its probability."""

    text: str
    probability: float


class Timed(BaseModel):
    """What every answer of a model tells beside itself."""

    seconds: float = Field(description="That the model computed, without waiting.")


class AnswerReply(Timed):
    """Answers to a question, best first."""

    answers: list[Scored]


class MatchReply(Timed):
    """Probabilities that texts describe a picture, in the order of the texts."""

    matches: list[Scored]


class ClassesReply(Timed):
    """Classes with probabilities that add up to one, the most probable first."""

    classes: list[Scored]


class Hit(BaseModel):
    """A picture of the index."""

    entry: int = Field(description="Its number, for /api/pictures/{entry}.")
    picture: str = Field(description="Address of a small JPEG of it, relative to the page.")
    name: str = Field(description="Its file inside the library.")
    copies: int = Field(description="Other files with the same content.")
    probability: float | None = Field(description="That text and picture match; null where only vectors were compared.")
    similarity: float = Field(description="Inner product of the contrastive vectors, -1 to 1.")


class SearchReply(Timed):
    """Pictures that a text describes, best first."""

    found: list[Hit]
    pictures: int = Field(description="In the index.")


class WordMap(BaseModel):
    """Where a word, or the whole text, looks; maps have the rows and columns of the cells."""

    word: str
    pieces: list[str] = Field(description="Its WordPieces; empty for the whole text.")
    share: float = Field(description="Of its attention that goes to the picture; the rest goes to the text.")
    attention: list[list[float]]
    gradient: list[list[float]] = Field(description="Attention times the positive part of the output's gradient.")


class PictureMaps(BaseModel):
    """Maps over one picture; cell (i, j) covers 64 pixels from (64 j, 64 i) of the picture in `read_size`."""

    read_size: tuple[int, int] = Field(description="Width and height in which the model reads the picture.")
    valid: list[list[bool]] = Field(description="Cells that hold picture.")
    whole: WordMap
    words: list[WordMap]


class AttentionReply(Timed):
    """Where the words of a text look."""

    verb: str = Field(description="Of the model that was looked into.")
    target: str = Field(description="The output that the gradient is of.")
    probability: float
    layer: int
    whole_layer: int
    layers: int
    notes: list[str]
    pictures: list[PictureMaps] = Field(description="One, or the left and the right one.")


class CodesReply(Timed):
    """The code of every cell of a picture."""

    codes: list[list[int]] = Field(description="Index in the dictionary, -1 at padding.")
    read_size: tuple[int, int]
    size: int = Field(description="Of the dictionary.")
    notes: list[str]


class CodeReply(BaseModel):
    """What shares a code in the pictures of the index."""

    code: int
    hits: int
    images: int
    share: float
    patches: list[str] = Field(description="JPEG pictures as data: addresses, each of another picture.")
    read: int = Field(description="Pictures of the index that were read for this so far.")
    total: int = Field(description="Pictures that will be.")


class Example(BaseModel):
    """An example that is ready to click."""

    kind: str
    text: str
    pictures: list[str] = Field(description="Addresses, relative to the page.")


class ServedModel(BaseModel):
    """A model and its verb."""

    verb: str
    folder: str = Field(description="Its name: the last two parts of its path.")
    kind: str


class Bounds(BaseModel):
    """What a request may hold."""

    upload_bytes: int
    pixels: int
    text_characters: int
    texts: int
    results: int


class ModelsReply(BaseModel):
    """What this server can do."""

    models: list[ServedModel]
    needs: dict[str, str] = Field(description="By what can be asked: empty, or one sentence about what is missing.")
    limits: Bounds
    index_pictures: int | None = Field(description="Pictures in the index, null without one.")
    seconds: float = Field(description="Mean of the last answers.")
    examples: list[Example]
    samples: list[str] = Field(description="Addresses of some pictures to start from.")


class Health(BaseModel):
    """The state of the server."""

    status: str
    requests: int = Field(description="In the house now, waiting ones included.")
    places: int = Field(description="For them.")


def scored(predictions: Sequence[Prediction]) -> list[Scored]:
    """Return predictions as they are sent."""
    return [Scored(text=one.text, probability=round(one.probability, DIGITS)) for one in predictions]


def picture_maps(maps: WordMaps) -> PictureMaps:
    """Return the maps over one picture as they are sent."""

    def word(name: str, pieces: Sequence[str], attention: Map, gradient: Map) -> WordMap:
        share = round(float(attention.sum()), DIGITS)
        return WordMap(
            word=name, pieces=list(pieces), share=share, attention=_rounded(attention), gradient=_rounded(gradient, 8)
        )

    rows = zip(maps.words, maps.pieces, maps.attention, maps.gradient)
    return PictureMaps(
        read_size=maps.read_size,
        valid=maps.valid.tolist(),
        whole=word("", (), maps.whole_attention, maps.whole_gradient),
        words=[word(*row) for row in rows],
    )


def _rounded(values: Map, digits: int = DIGITS) -> list[list[float]]:
    return [[round(float(value), digits) for value in row] for row in values]
