"""Reads everything a recipe names once, before hours of training do: counts, missing, broken, doubled, leaked."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations

from tqdm import tqdm

from soho.data.check_report import CheckReport, Problem, SourceCounts
from soho.data.images import decode_bytes, image_size, read_bytes
from soho.data.leaks import TrainingPhotographs, exclusion_notes, known_leaks
from soho.data.readers.reading import LoadNotes, plural
from soho.data.readers.shards import damaged_shards
from soho.data.schema import (
    Example,
    ImageRef,
    VisualQuestion,
    id_of,
    is_example,
    photos_of,
    texts_of,
)
from soho.data.shards.layout import Holds
from soho.data.shards.records import kind_of
from soho.data.sources import Load, Source, leave_out, load_captions, photographs_of
from soho.data.vocabulary_answers import majority_answer
from soho.errors import SohoError

_THREADS = 2
_CHUNK = 512
_TEXTS_MEASURED = 50_000
_TOLERATED_BROKEN = 0.01


@dataclass(frozen=True, slots=True)
class _Opened:
    """What one picture file turned out to be."""

    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    error: str = ""


@dataclass(slots=True)
class _Read:
    """What is kept of one source after its examples are gone."""

    source: Source
    counts: SourceCounts
    pictures: dict[ImageRef, tuple[str, int, int]] = field(default_factory=dict)  # photo key, width, height
    ids: list[tuple[str, str, str]] = field(default_factory=list)  # data set, id, photo key
    holds: Holds = "captions"
    named: dict[str, str] = field(default_factory=dict)  # photo key -> file, those of data.exclude included

    @property
    def where(self) -> str:
        return f"{self.counts.section}, {self.counts.source}"


def check(
    sections: Mapping[str, Sequence[Source]],
    task: str,
    tokenize_length: Callable[[str], int] | None = None,
    text_length: int = 16,
    decode: bool = True,
    progress: bool = False,
    exclude: Sequence[Source] = (),
    load: Load = load_captions,
) -> CheckReport:
    """Read the annotations and every picture of all sections once.

    Not sound are: a source that cannot be read or gives no rows, missing pictures and empty captions (unless
    `on_missing: skip`), more than one broken picture in a hundred, an example listed twice, photographs of the training
    section in the validation or test section (by photo key, or the same bytes), training captions of a single
    photograph, and questions without answers outside the test section. The rest is told as a note.

    Args:
        sections: "train", "validation", "test" -> sources.
        task: the recipe's task, named in the report; leaks that only pre-training has are told of "pretraining".
        tokenize_length: number of tokens of a text, `[CLS]` and `[SEP]` included; None leaves the lengths out. It is
            called for at most 50,000 texts of a source, evenly spread.
        text_length: tokens that the recipe allows.
        decode: decode every picture; False reads only the headers, which finds fewer broken ones.
        progress: show a progress bar.
        exclude: sources whose photographs are left out of "train" before anything is counted; what each of them did is
            told, and so are known leaks of pre-training data that none of them stops.
        load: how the task reads a source.

    Returns:
        Counts and problems; faults of the data are never raised.
    """
    report = CheckReport(task=task, text_length=text_length)
    reads: list[_Read] = []
    exclusions: list[tuple[Source, frozenset[str]]] = []
    for source in exclude:
        try:
            exclusions.append((source, photographs_of(source)))
        except SohoError as error:
            report.problems.append(Problem("exclude", str(error), fatal=True))
    excluded = frozenset(key for _, keys in exclusions for key in keys)
    for section, sources in sections.items():
        for source in sources:
            read = _Read(source, SourceCounts(section, source.title))
            report.counts.append(read.counts)
            try:
                apart = excluded if section == "train" else frozenset()
                _read_source(read, load, tokenize_length, text_length, report.problems, apart)
            except SohoError as error:
                report.problems.append(Problem(read.where, str(error), fatal=True))
            else:
                reads.append(read)
                report.holds = read.holds
    if not sections.get("train"):
        report.problems.append(Problem("train", "the recipe names no training data", fatal=not any(sections.values())))
    train = [TrainingPhotographs(read.source, read.named) for read in reads if read.counts.section == "train"]
    report.problems += exclusion_notes(exclusions, train)
    if task == "pretraining":
        report.problems += known_leaks(excluded, train)
    refs = dict.fromkeys(ref for read in reads for ref in read.pictures)
    start = time.monotonic()
    opened = _open_all(list(refs), decode, progress)
    report.seconds, report.images_read = time.monotonic() - start, len(opened)
    sizes = sorted((item.size for item in opened.values() if not item.error), key=lambda size: size[0] * size[1])
    if sizes:
        report.smallest, report.largest = sizes[0], sizes[-1]
    for read in reads:
        report.problems += _picture_problems(read, opened)
    for section in sections:
        report.problems += _section_problems(section, [r for r in reads if r.counts.section == section], opened)
    for one, other in combinations(sections, 2):
        report.problems += _overlaps(one, other, reads, opened)
    return report


def _read_source(
    read: _Read,
    load: Load,
    tokenize_length: Callable[[str], int] | None,
    text_length: int,
    problems: list[Problem],
    excluded: frozenset[str],
) -> None:
    """Fill in what the annotations say.

    Raises:
        SohoError: the source cannot be read even with missing things left out, or nothing of it stays.
    """
    loaded, notes = _load(read.source, load)
    if (unknown := next((record for record in loaded if not is_example(record)), None)) is not None:
        raise SohoError(
            f"{read.source.place} is read as {type(unknown).__name__}, but only the records of soho.data.schema can be "
            "checked"
        )
    if read.source.format == "shards" and (faults := damaged_shards(read.source.shards, read.source.cache)):
        notes.remarks.clear()  # they tell of the lengths alone
        message = f"{plural(len(faults), 'shard')} not what the index says"
        problems.append(Problem(read.where, message, read.source.on_missing == "error", faults, len(faults)))
    read.named.update((photo.photo_key, str(photo.image)) for example in loaded for photo in photos_of(example))
    examples, remark = leave_out(list(loaded), excluded)
    if not examples:
        raise SohoError(f"nothing is left: {remark}")
    read.holds = kind_of(examples[0])
    counts, where = read.counts, read.where
    strict = read.source.on_missing == "error"
    texts: list[str] = []
    majority: Counter[str] = Counter()
    for example in examples:
        for photo in photos_of(example):
            read.pictures.setdefault(photo.image, (photo.photo_key, photo.width, photo.height))
        texts.extend(texts_of(example))
        read.ids.append((counts.source, id_of(example), example.photo_key))
        if isinstance(example, VisualQuestion):
            answer = majority_answer(example.answers)
            counts.unanswered += answer is None
            majority.update([answer] if answer is not None else [])
    counts.images, counts.texts, counts.answers = len(read.pictures), len(texts), len(majority)
    counts.missing, counts.left_out = notes.missing, sum(notes.dropped.values()) + len(loaded) - len(examples)
    if remark:
        problems.append(Problem(where, remark, fatal=False))
    if tokenize_length is not None:
        measured = texts[:: -(-len(texts) // _TEXTS_MEASURED)]
        counts.measured = len(measured)
        counts.cut = sum(tokenize_length(text) > text_length for text in measured)
    problems += _notes_problems(where, notes, read.source, strict)
    if counts.unanswered and counts.section != "test":
        message = f"{plural(counts.unanswered, 'question')} without an answer that is more than punctuation"
        problems.append(Problem(where, message, fatal=True))


def _load(source: Source, load: Load) -> tuple[Sequence[Example], LoadNotes]:
    """Load leniently, so that everything missing is seen at once; a failure is told as the recipe's own run would."""
    try:
        return load(source)
    except SohoError as error:
        if source.on_missing == "skip":
            raise
        try:
            return load(source.model_copy(update={"on_missing": "skip"}))
        except SohoError:
            raise error from None


def _notes_problems(where: str, notes: LoadNotes, source: Source, strict: bool) -> Iterable[Problem]:
    advice = "; on_missing: skip leaves out what is missing" if strict else ", left out"
    if notes.missing:
        place = source.image_store()
        message = f"{plural(notes.missing, 'image')} not found in {place}{advice}"
        yield Problem(where, message, strict, notes.missing_names, notes.missing)
    for reason, count in notes.dropped.items():
        lacking = reason in notes.lacking
        message = f"{count:,} x {reason}{advice if lacking else ', left out'}"
        yield Problem(where, message, strict and lacking, notes.dropped_names[reason], count)
    for remark in notes.remarks:
        yield Problem(where, remark, fatal=False)


def _open_all(refs: Sequence[ImageRef], decode: bool, progress: bool) -> dict[ImageRef, _Opened]:
    """Open every picture once, in two threads (decoding releases the interpreter lock)."""
    opened: dict[ImageRef, _Opened] = {}
    bar = tqdm(total=len(refs), unit="picture", desc="reading pictures", disable=not progress)
    with bar, ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(refs), _CHUNK):
            chunk = refs[start : start + _CHUNK]
            for ref, result in zip(chunk, pool.map(lambda ref: _open(ref, decode), chunk)):
                opened[ref] = result
                bar.update()
    return opened


def _open(ref: ImageRef, decode: bool) -> _Opened:
    try:
        size = image_size(ref)
        if not decode:
            return _Opened(size=size)
        data = read_bytes(ref)
        decode_bytes(data, str(ref), smallest=True)
        return _Opened(hashlib.blake2b(data, digest_size=16).digest(), size)
    except SohoError as error:
        return _Opened(error=str(error))


def _picture_problems(read: _Read, opened: Mapping[ImageRef, _Opened]) -> Iterable[Problem]:
    broken = [opened[ref].error for ref in read.pictures if opened[ref].error]
    read.counts.broken = len(broken)
    if broken:
        share = len(broken) / len(read.pictures)
        fatal = share > _TOLERATED_BROKEN
        bound = f"{100 * share:.1f} %, more than 1 in 100" if fatal else "at most 1 in 100; each becomes a grey filler"
        yield Problem(
            read.where, f"{plural(len(broken), 'picture')} cannot be read ({bound})", fatal, broken, len(broken)
        )
    other = []
    for ref, (_, width, height) in read.pictures.items():
        item = opened[ref]
        if width and height and not item.error and item.size != (width, height):
            other.append(f"{ref}: {item.size[0]}x{item.size[1]}, annotated {width}x{height}")
    if other:
        message = f"{plural(len(other), 'picture')} of another size than the annotations say"
        yield Problem(read.where, message, False, other, len(other))


def _section_problems(section: str, reads: Sequence[_Read], opened: Mapping[ImageRef, _Opened]) -> Iterable[Problem]:
    """Yield what is wrong between the sources of one section."""
    counted = Counter(key for read in reads for key in read.ids)
    twice = [f"{source}: {name}" for (source, name, _), count in counted.items() if count > 1]
    if twice:
        message = "the same id of the same photograph is listed more than once"
        yield Problem(section, message, True, twice, len(twice))
    keys = {key for read in reads for key, _, _ in read.pictures.values()}
    if reads and len(keys) == 1 and reads[0].holds == "captions":
        yield Problem(section, "only one photograph: no caption can serve as a negative", fatal=section == "train")
    same_bytes: dict[bytes, dict[str, ImageRef]] = defaultdict(dict)
    for read in reads:
        for ref, (key, _, _) in read.pictures.items():
            if opened[ref].digest:
                same_bytes[opened[ref].digest].setdefault(key, ref)
    doubles = [" = ".join(map(str, refs.values())) for refs in same_bytes.values() if len(refs) > 1]
    if doubles:
        message = (
            "pictures with the same bytes count as different photographs: the one's captions as the other's negatives"
        )
        yield Problem(section, message, False, doubles, len(doubles))


def _overlaps(one: str, other: str, reads: Sequence[_Read], opened: Mapping[ImageRef, _Opened]) -> Iterable[Problem]:
    """Yield the photographs that stand in two sections: by key, by bytes, and (a hint only) by file name."""
    pair = f"{one} and {other}"
    fatal = "train" in (one, other)
    left, right = ([read for read in reads if read.counts.section == section] for section in (one, other))
    by_key = {key: ref for read in left for ref, (key, _, _) in read.pictures.items()}
    by_bytes = {opened[ref].digest: ref for ref in by_key.values()}
    by_name = {_base(ref): ref for ref in by_key.values()}
    shared: dict[str, str] = {}
    copied: dict[str, str] = {}
    named: dict[str, str] = {}
    for read in right:
        for ref, (key, _, _) in read.pictures.items():
            digest = opened[ref].digest
            if key in by_key:
                # The key of somebody's own picture is a digest and says nothing.
                shared[key] = str(ref) if key.startswith("file:") else f"{key} ({by_key[key]})"
            elif digest and digest in by_bytes:
                copied[key] = f"{by_bytes[digest]} = {ref}"
            elif _base(ref) in by_name:
                named[key] = f"{by_name[_base(ref)]}, {ref}"
    leak = "; the result would be measured on photographs that were trained on" if fatal else ""
    if shared:
        message = f"{plural(len(shared), 'photograph')} in both{leak}"
        yield Problem(pair, message, fatal, list(shared.values()), len(shared))
    if copied:
        message = f"{plural(len(copied), 'picture')} with the same bytes in both, under other names{leak}"
        yield Problem(pair, message, fatal, list(copied.values()), len(copied))
    if named:
        content = "another content" if any(item.digest for item in opened.values()) else "unread content"
        message = f"{plural(len(named), 'file name')} in both, with {content}; harmless unless they show the same scene"
        yield Problem(pair, message, False, list(named.values()), len(named))


def _base(ref: ImageRef) -> str:
    if ref.span is not None:
        return str(ref)  # numbers that every folder of shards has
    return ref.path.replace("\\", "/").rsplit("/", 1)[-1]
