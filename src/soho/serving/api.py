"""The routes: what may be asked, with which fields, and what comes back."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, File, Form, Path, Query, Response, UploadFile
from PIL import Image

from soho.errors import SohoError
from soho.inspection.attention import word_maps
from soho.inspection.code_map import code_map, read_size, reads_codes
from soho.inspection.dictionary_study import NEAREST
from soho.pipelines import SohoPipeline
from soho.search.picture_index import RERANK
from soho.serving import replies, verbs
from soho.serving.house import NEEDS, SIZES, House
from soho.serving.limits import Refusal, checked_number, checked_text
from soho.serving.pictures import check_picture, decode_picture

Result = TypeVar("Result")
Picture = Annotated[UploadFile, File(description="A JPEG, PNG or WebP picture.")]
Text = Annotated[str, Form(description="A sentence; the model reads its first tokens only.")]
Number = Annotated[int, Path(ge=0, lt=1 << 63)]
Verb = Literal["answer", "match", "compare", "entails"]
Size = Literal["small", "large"]
# Whose model is looked into where nobody says.
FIRST = ("match", "answer", "entails", "compare")

_SAID = {
    404: "no model or index for it, or no such picture",
    408: "the request came too slowly",
    413: "the request, a file or a picture is too large",
    415: "a file is no JPEG, PNG or WebP picture",
    422: "a field is missing or out of range, or the model cannot read it",
    503: "all places are taken; Retry-After says when to come back",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": replies.ErrorReply, "description": said} for status, said in _SAID.items()
}


def routes(house: House) -> APIRouter:
    """Return the routes of a server."""
    router = APIRouter(responses=ERRORS)
    limits = house.limits

    async def compute(job: Callable[[], Result]) -> tuple[Result, float]:
        try:
            result, seconds = await house.desk.run(job)
        except Refusal:
            raise
        except SohoError as error:  # the model's own sentence
            raise Refusal(422, str(error)) from None
        return result, round(seconds, 4)

    def pipeline_for(verb: str, exact: bool = False) -> SohoPipeline:
        pipeline = house.shelf.of(verb, exact)
        if pipeline is None:
            raise Refusal(404, NEEDS[verb])
        return pipeline

    async def sent(upload: UploadFile, name: str) -> Callable[[], Image.Image]:
        """Look at a picture now, and decode it when its turn comes."""
        data = await upload.read(limits.upload_bytes + 1)
        check_picture(data, name, limits)
        return lambda: decode_picture(data, name)

    @router.post("/api/answer", tags=["ask"], response_model=replies.AnswerReply)
    async def answer(image: Picture, question: Text, top: Annotated[int, Form()] = 3) -> Any:
        """Answer a question about a picture."""
        pipeline, words = pipeline_for("answer"), checked_text(question, "question", limits)
        number = checked_number(top, "top", limits.results)
        picture = await sent(image, "image")
        found, seconds = await compute(lambda: verbs.answer(pipeline, picture(), words, number))
        return {"answers": replies.scored(found), "seconds": seconds}

    @router.post("/api/match", tags=["compare"], response_model=replies.MatchReply)
    async def match(image: Picture, texts: Annotated[list[str], Form(description="One or more.")]) -> Any:
        """Say how well texts describe a picture."""
        pipeline = pipeline_for("match")
        if len(texts) > limits.texts:
            raise Refusal(422, f"there are {len(texts)} texts; expected at most {limits.texts}")
        words = [checked_text(text, f"text {place}", limits) for place, text in enumerate(texts, start=1)]
        picture = await sent(image, "image")
        found, seconds = await compute(lambda: verbs.match(pipeline, picture(), words))
        return {"matches": replies.scored(found), "seconds": seconds}

    @router.post("/api/compare", tags=["compare"], response_model=replies.ClassesReply)
    async def compare(left: Picture, right: Picture, text: Text) -> Any:
        """Say whether a sentence is true of two pictures."""
        pipeline, words = pipeline_for("compare"), checked_text(text, "text", limits)
        one, other = await sent(left, "left"), await sent(right, "right")
        found, seconds = await compute(lambda: verbs.compare(pipeline, one(), other(), words))
        return {"classes": replies.scored(found), "seconds": seconds}

    @router.post("/api/entails", tags=["compare"], response_model=replies.ClassesReply)
    async def entails(image: Picture, text: Text) -> Any:
        """Say whether a picture entails a text."""
        pipeline, words = pipeline_for("entails"), checked_text(text, "text", limits)
        picture = await sent(image, "image")
        found, seconds = await compute(lambda: verbs.entails(pipeline, picture(), words))
        return {"classes": replies.scored(found), "seconds": seconds}

    @router.post("/api/search", tags=["search"], response_model=replies.SearchReply)
    async def search(
        text: Text,
        top: Annotated[int, Form()] = 12,
        rerank: Annotated[int, Form(description="Candidates that fusion reads; 0 = vectors alone.")] = RERANK,
    ) -> Any:
        """Find pictures of the index."""
        index = house.index
        if index is None:
            raise Refusal(404, NEEDS["search"])
        words, number = checked_text(text, "text", limits), checked_number(top, "top", limits.results)
        if not 0 <= rerank <= 10 * RERANK:
            raise Refusal(422, f"rerank={rerank} is out of range; expected 0 to {10 * RERANK}")
        found, seconds = await compute(lambda: index.search(words, number, rerank)[0])
        hits = [
            replies.Hit(
                entry=one.entry,
                picture=f"api/pictures/{one.entry}",
                name=one.path.relative_to(index.library).as_posix(),
                copies=len(one.copies),
                probability=one.probability,
                similarity=one.similarity,
            )
            for one in found
        ]
        return {"found": hits, "pictures": len(index), "seconds": seconds}

    @router.get("/api/pictures/{entry}", tags=["search"], response_class=Response, responses=_JPEG)
    async def picture_of_entry(entry: Number, size: Annotated[Size, Query()] = "small") -> Response:
        """Return a JPEG of a picture of the index, without its metadata; never the file itself."""
        if house.index is None:
            raise Refusal(404, NEEDS["search"])
        with house.pictures.place():
            try:
                data, _ = await house.pictures.run(lambda: house.small_picture(entry, SIZES[size]))
            except SohoError:  # its sentence may name a path of this machine
                raise Refusal(404, f"the index has no readable picture {entry} now") from None
        return _jpeg(data)

    @router.get("/api/examples/{number}/{place}", tags=["examples"], response_class=Response, responses=_JPEG)
    async def picture_of_example(number: Number, place: Number) -> Response:
        """Return a picture of an example."""
        if number >= len(house.examples) or place >= len(house.examples[number].pictures):
            raise Refusal(404, f"there is no picture {place} of an example {number}")
        return _jpeg(house.examples[number].pictures[place])

    @router.post("/api/attention", tags=["look inside"], response_model=replies.AttentionReply)
    async def attention(
        image: Picture,
        text: Text,
        verb: Annotated[Verb | None, Form(description="Whose model; default: the first that is there.")] = None,
        second: Annotated[UploadFile | None, File(description="The right picture, for `compare`.")] = None,
        target: Annotated[str | None, Form(description="The output to follow.")] = None,
    ) -> Any:
        """Show where every word of a text looks, and what of the picture speaks for the output."""
        chosen: str = (
            verb if verb is not None else next((one for one in FIRST if one in house.shelf.folders), "inspect")
        )
        pipeline, words = pipeline_for(chosen, exact=True).head(chosen), checked_text(text, "text", limits)
        aim = checked_text(target, "target", limits) if target else None
        one = await sent(image, "image")
        other = await sent(second, "second") if second is not None else None

        def look() -> replies.AttentionReply:
            maps = word_maps(pipeline, one(), words, second=other() if other is not None else None, target=aim)
            return replies.AttentionReply(
                seconds=0.0,
                verb=chosen,
                target=maps.target,
                probability=round(maps.probability, replies.DIGITS),
                layer=maps.layer,
                whole_layer=maps.whole_layer,
                layers=maps.layers,
                notes=list(maps.notes),
                pictures=[replies.picture_maps(side) for side in (maps, maps.second) if side is not None],
            )

        reply, seconds = await compute(look)
        return reply.model_copy(update={"seconds": seconds})

    @router.post("/api/codes", tags=["look inside"], response_model=replies.CodesReply)
    async def codes(image: Picture) -> Any:
        """Return the code that the visual dictionary gives to every cell of a picture."""
        book = house.book
        if book is None:
            raise Refusal(404, NEEDS["codes"])
        picture = await sent(image, "image")

        def look() -> tuple[list[list[int]], tuple[int, int]]:
            opened = picture()
            return code_map(book.pipeline, opened).tolist(), read_size(book.pipeline, opened)

        (grid, size), seconds = await compute(look)
        notes = [] if reads_codes(book.pipeline) else [NEAREST]
        return {"codes": grid, "read_size": size, "size": book.size, "notes": notes, "seconds": seconds}

    @router.get("/api/codes/{code}", tags=["look inside"], response_model=replies.CodeReply)
    async def patches(code: Number) -> Any:
        """Return patches of the index's pictures that share a code."""
        book = house.book
        if book is None:
            raise Refusal(404, NEEDS["codes"])
        if code >= book.size:
            raise Refusal(404, f"the dictionary has no code {code}; expected 0 to {book.size - 1}")
        entry = book.entry(code)
        shown = [f"data:image/jpeg;base64,{base64.b64encode(patch).decode('ascii')}" for patch in entry.patches]
        counted = {"code": code, "hits": entry.hits, "images": entry.images, "share": entry.share}
        return {**counted, "patches": shown, "read": book.read, "total": book.total}

    @router.get("/api/models", tags=["server"], response_model=replies.ModelsReply)
    async def models() -> Any:
        """Say what this server can do, what is missing for the rest, and what a request may hold."""
        bounds = {name: getattr(limits, name) for name in replies.Bounds.model_fields}
        examples = [
            replies.Example(
                kind=one.kind,
                text=one.text,
                pictures=[f"api/examples/{number}/{place}" for place in range(len(one.pictures))],
            )
            for number, one in enumerate(house.examples)
        ]
        step = max(1, len(house.corpus) // 6)
        served = [
            replies.ServedModel(
                verb=verb,
                folder="/".join(folder.path.absolute().parts[-2:]),
                kind=type(house.shelf.exact[folder.path].head(verb).model).__name__,
            )
            for verb, folder in house.shelf.folders.items()
        ]
        return replies.ModelsReply(
            models=served,
            needs=house.needs(),
            limits=replies.Bounds(**bounds),
            index_pictures=None if house.index is None else len(house.index),
            seconds=round(house.desk.seconds, 3),
            examples=examples,
            samples=[f"api/pictures/{entry}" for entry in house.corpus[::step][:6]],
        )

    @router.get("/healthz", tags=["server"], response_model=replies.Health)
    async def health() -> Any:
        """Say that the server is there and how busy it is."""
        return {"status": "ok", "requests": house.desk.taken, "places": house.desk.places}

    return router


_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "A picture."}}


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})
