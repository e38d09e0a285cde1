"""From a row to a sample, in two steps: an answer by number is understood only when all rows of its table were seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from osler.data.readers.base import check_object, number_to_text
from osler.data.readers.layouts.answers import Answer, prove_base, read_answer, read_open_answer, settle
from osler.data.readers.layouts.fields import MAX_TEXT, Fields, parse_literal
from osler.data.readers.layouts.options import Options, find_numbered, find_options, read_options, without_options
from osler.data.readers.layouts.patient import read_context
from osler.data.readers.layouts.pictures import Pictures
from osler.data.readers.layouts.places import cut_end, lead, place_images, put_back
from osler.data.readers.text import check_choices, parse_label, repair_mojibake
from osler.errors import DataError, first_line
from osler.facts import Facts, Term
from osler.taxonomy import parse_modality, parse_question_type
from osler.text import fold_words
from osler.types import LETTERS, Sample

if TYPE_CHECKING:
    from pydantic import TypeAdapter

OWN_LAYOUT: Final = "osler"
"""What the field `layout` says in rows that `osler data convert` wrote: nothing in them is to be taken apart."""

Label = TypeVar("Label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row whose question, options and answer are read, but for an answer by number."""

    fields: Fields
    question: str
    options: Options | None  # None for an open question
    answer: Answer | str


def draft_row(fields: Fields, notes: Counter[str]) -> Draft:
    """The question, options and answer of a row. Raises DataError for what is missing or ambiguous."""
    for name in fields.unread:
        notes[f"field {name[:40]!r} not read"] += 1
    answers = list(fields.all("answer"))
    if fields.first("layout") == OWN_LAYOUT:
        return _own_row(fields, answers, notes)
    question, options = _read_question(fields, notes)
    if not answers:
        unread = f" (not read: {', '.join(fields.unread[:6])})" if fields.unread else ""
        raise DataError(f"no 'answer', 'solution' or assistant message{unread}")
    if options is None and (numbered := find_numbered(question)) is not None:
        with suppress(DataError):  # a list in an open question
            return Draft(fields=fields, question=numbered[0], options=numbered[1], answer=read_answer(answers, numbered[1], notes))
    if options is None:
        return Draft(fields=fields, question=question, options=None, answer=read_open_answer(answers, notes))
    return Draft(fields=fields, question=question, options=options, answer=read_answer(answers, options, notes))


def _own_row(fields: Fields, answers: Sequence[tuple[str, Any]], notes: Counter[str]) -> Draft:
    """A row as Osler writes it: nothing in it is taken apart."""
    question = _as_text(fields.first("question"), "question", notes)
    if not answers:
        raise DataError("no 'target'")
    if "choices" not in fields.parts:
        return Draft(fields=fields, question=question, options=None, answer=_as_text(answers[0][1], "target", notes))
    options = Options(choices=check_choices(fields.first("choices"), notes))
    letter = _as_text(answers[0][1], "target", notes)
    if letter not in LETTERS[: len(options.choices)] or len(letter) != 1:
        raise DataError(f"the target {letter[:20]!r} is the letter of none of the {len(options.choices)} options")
    return Draft(fields=fields, question=question, options=options, answer=Answer(option=LETTERS.index(letter)))


def base_of(drafts: Iterable[Draft]) -> int | DataError | None:
    """`answers.prove_base` of the drafts of a table; the error in place of a raised one, for the rows that need a base."""
    answers = [(draft.answer, len(draft.options.choices)) for draft in drafts if draft.options and isinstance(draft.answer, Answer)]
    try:
        return prove_base(answers)
    except DataError as error:
        return error


def needs_base(draft: Draft) -> bool:
    """Whether the answer is a number whose meaning depends on where the file begins to count."""
    return isinstance(draft.answer, Answer) and bool(draft.answer.places or draft.answer.number is not None)


def finish(draft: Draft, base: int | DataError | None, pictures: Pictures, notes: Counter[str], *, name: str, dataset: str) -> Sample:
    """The sample of a draft. Raises DataError."""
    fields = draft.fields
    choices = draft.options.choices if draft.options else ()
    target = draft.answer if isinstance(draft.answer, str) else settle(draft.answer, choices, base, notes)
    given = list(fields.all("images"))
    images, captions = pictures.read_all(given), pictures.read_captions(given)
    context = read_context(fields, notes, is_own=fields.first("layout") == OWN_LAYOUT)
    placed = place_images(images, context, draft.question, choices, notes, captions=captions)
    if not placed.question.strip():
        raise DataError("the question is empty")
    return Sample(
        id=name,
        dataset=dataset,
        images=placed.images,
        question=placed.question.strip(),
        choices=choices,
        target=target,
        modality=_label(fields, "modality", parse_modality, notes),
        question_type=_label(fields, "question_type", parse_question_type, notes),
        subject_id=_text(fields, "subject_id"),
        context=placed.context,
        rationale=_text(fields, "rationale"),
        facts=_known(fields, "facts", Facts),
        terms=_known(fields, "terms", tuple[Term, ...]) or (),
        metadata=_metadata(fields),
    )


def _read_question(fields: Fields, notes: Counter[str]) -> tuple[str, Options | None]:
    """The question without its options, and these: of a field of their own, else of the question's text."""
    texts = [(name, repair_mojibake(_as_text(value, name, notes), notes)) for name, value in fields.all("question")]
    if not texts:
        raise DataError("'question' is missing")
    if long := next((name for name, text in texts if len(text) > MAX_TEXT), None):
        raise DataError(f"{long!r} has more than {MAX_TEXT:,} characters: shorten it")
    question, places = cut_end(texts[0][1])
    for name, text in texts[1:]:
        if not _is_same_question(question, text):
            raise DataError(f"{texts[0][0]!r} and {name!r} ask different things: keep one of them")
    found = [read_options(value, notes) for _, value in fields.all("choices")]
    if any(one.choices != found[0].choices for one in found):
        raise DataError("the options of two fields differ: keep one of them")
    if found:
        if (bare := without_options(question, found[0].choices)) is None:
            return lead(texts[0][1]), found[0]
        notes["options that the question repeats left out of it"] += 1
        return put_back(bare, places), found[0]
    if (parts := find_options(question, notes)) is None:
        return put_back(question, places) if find_numbered(question) else lead(texts[0][1]), None
    return put_back(parts.question, places), Options(choices=check_choices(parts.choices, notes))


def _is_same_question(question: str, text: str) -> bool:
    """Whether another field asks the same, perhaps with the options or behind the context."""
    with suppress(DataError):
        if (parts := find_options(cut_end(text)[0], Counter())) is not None:
            text = parts.question
    return fold_words(text).endswith(fold_words(question)) or fold_words(question).endswith(fold_words(text))


def _metadata(fields: Fields) -> dict[str, Any]:
    if "metadata" not in fields.parts:
        return {}
    value = check_object(parse_literal(fields.first("metadata")) or {}, "'metadata'")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"'metadata' holds what JSON cannot ({first_line(error)}): write it as text") from None
    return value


def _as_text(value: Any, name: str, notes: Counter[str]) -> str:
    value = number_to_text(value, f"in {name!r}", notes)
    if not isinstance(value, str):
        raise DataError(f"{name!r} is {type(value).__name__}, not text")
    return value.strip()


def _text(fields: Fields, part: str) -> str | None:
    value = fields.first(part)
    return None if value is None else _as_text(value, part, Counter())


def _label(fields: Fields, part: str, parse: Callable[[str], Label], notes: Counter[str]) -> Label | None:
    value = fields.first(part)
    return None if value is None else parse_label(value, parse, part.replace("_", " "), notes)


def _known(fields: Fields, part: str, kind: Any) -> Any:
    """The facts or the terms of a row, None without any. Raises DataError, which names the field that is wrong."""
    if part not in fields.parts or (value := parse_literal(fields.first(part))) is None:
        return None
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value, extra="forbid")
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, (part, *fault['loc'])))!r} is wrong: {fault['msg']}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
