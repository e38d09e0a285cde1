"""Read what a reasoning states about its image. The grammar is described in docs/statements.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Final

from osler.facts import Facts, Kind, Statement, Term, Truth
from osler.grading.fact_check import check
from osler.grading.mentions import ATTRIBUTES, IMAGE_KINDS, PLACES, Mention, Reading, find_mentions
from osler.grading.open_answer import is_same_text
from osler.grading.relevance import bears_on
from osler.grading.stance import CLAUSE_ENDS, COPULAS, PREPOSITIONS, VIEWS, Stance, is_landmark, is_out_of_view, read_stance, stance_after
from osler.grading.subjects import find_subject, is_part_of_organ, noun_behind
from osler.grading.terms import LESION, LESION_WORDS, Phrase, TermIndex, fold_term, index_terms
from osler.taxonomy import QuestionType
from osler.text import ARTICLES, fold_phrase

_NAMES: Final = frozenset({Kind.PRESENCE, Kind.SIGN})
_LISTED: Final = frozenset({Kind.ANATOMY, Kind.SIZE, Kind.COUNT, Kind.SIDE, Kind.POSITION})
"""Kinds of which a dataset lists a few values, and a text may name others about the same image."""
_SIDES: Final = frozenset({("left",), ("right",), ("bilateral",)})
_WHERE: Final = PLACES | {Kind.LEVEL, Kind.SLICES}
_OTHERS: Final = frozenset({"other", "further", "additional", "second"})
_LIST_WORDS: Final = frozenset({",", "or", "nor", "and", "a", "an", "the"})
_INDEFINITE: Final = frozenset({"a", "an", "one", "any", "some", "another", "multiple", "several", "two"})
_DEFINITE: Final = frozenset({"the", "this", "that", "its", ".", "!", "?", ";", "\n"})
_DETERMINER_DISTANCE: Final = 6
_PERCEIVED: Final = frozenset({"present", "seen", "visible", "noted", "identified", "detected", "found"})


def judge(
    reasoning: str,
    *,
    facts: Facts,
    terms: Sequence[Term] = (),
    answer_text: str | None = None,
    question_type: QuestionType | None = None,
) -> tuple[Statement, ...]:
    """The statements of a reasoning, each checked, and marked where it only repeats the answer or does not bear on the question."""
    index = index_terms(terms)
    reading, statements = _read_once(reasoning, index)
    repeated = _repeated(reasoning, reading, statements, index, answer_text) if answer_text else frozenset()
    return tuple(
        replace(
            statement,
            truth=_check(statement, facts, index),
            repeats_answer=number in repeated,
            is_relevant=bears_on(question_type, statement.kind, index.meanings.get(statement.value, frozenset())),
        )
        for number, statement in enumerate(statements)
    )


def _check(statement: Statement, facts: Facts, index: TermIndex) -> Truth:
    """The truth of a statement; what a dataset has no word for is not false because the dataset does not list it.

    A list of body regions says nothing about "the trachea" beside the thyroid gland, and a list of sizes nothing about "enlarged nuclei".
    """
    known = _SIDES if statement.kind is Kind.SIDE else index.values.get(statement.kind)
    stated = fold_term(statement.value)
    if known and statement.kind in _LISTED and not any(set(stated) <= set(value) for value in known):  # "upper" is in "upper left"
        facts = replace(facts, closed=tuple(kind for kind in facts.closed if kind is not statement.kind))
    return check(statement, facts)


# Reading


@lru_cache(maxsize=1024)
def _read_once(text: str, index: TermIndex) -> tuple[Reading, tuple[Statement, ...]]:
    """A group of completions often has the same reasoning several times."""
    reading = find_mentions(text, index)
    return reading, _read(reading)


def read_statements(text: str, terms: Sequence[Term] = ()) -> tuple[Statement, ...]:
    """The statements of a text in order, not yet checked. `terms` are phrases of the dataset. No text raises."""
    return _read_once(text, index_terms(terms))[1]


def _read(reading: Reading) -> tuple[Statement, ...]:
    stances = [_stance(mention, reading) for mention in reading.mentions]
    _negate_lists(stances, reading)
    _deny_subjects(stances, reading)
    _leave_several_open(stances, reading)
    statements = (_state(number, stances, reading) for number in range(len(stances)))
    return tuple(statement for statement in statements if statement is not None)


def _stance(mention: Mention, reading: Reading) -> Stance:
    """Whether a mention is affirmed, negated or left open."""
    words, begin, end = reading.unclaimed, mention.begin, mention.end
    if reading.sentences[begin] in reading.questions | reading.common_knowledge:
        return Stance.OPEN
    if reading.is_joined[end - 1] and words[end : end + 1] in (["like"], ["free"], ["shaped"]):  # "tumour-like"
        return Stance.OPEN
    if _is_not_here(mention, reading):
        return Stance.OPEN
    if mention.is_noun and _is_subject_of_not(mention, reading):
        end = len(words)
    through = read_stance(words, begin, end, through_prepositions=True)
    if through is Stance.AFFIRMED or mention.kind in ATTRIBUTES - PLACES:
        return through
    near = read_stance(words, begin, end, through_prepositions=False)
    if near is not Stance.AFFIRMED:
        is_presupposed = mention.kind is Kind.ANATOMY and words[begin - 1 : begin] == ["the"]  # "neither the liver nor the spleen is large"
        is_open = is_presupposed and near is Stance.NEGATED and stance_after(words, end) is not near
        return Stance.OPEN if is_open else near
    if mention.kind in _WHERE:  # "not on the left" negates the side; "no mass on the left" leaves it open
        preposition = next((at for at in range(begin - 1, max(-1, begin - 4), -1) if words[at] in PREPOSITIONS), 0)
        return Stance.NEGATED if preposition and words[preposition - 1] == "not" else Stance.OPEN
    if mention.kind in _NAMES:  # "no shift with the tumour" presupposes a tumour, "not in keeping with tumour" does not
        return Stance.AFFIRMED if words[begin - 1 : begin] == ["the"] else through
    return Stance.AFFIRMED


def _is_not_here(mention: Mention, reading: Reading) -> bool:
    """Whether a mention says nothing about this image: a landmark, general knowledge, a finding of the past."""
    if mention.kind in IMAGE_KINDS:  # "on a coronal image it would be seen", "it'd be seen"
        clause = reading.clause_behind(mention.end) + reading.clause_before(mention.begin)
        return not {"would", "d"}.isdisjoint(clause)
    if mention.is_noun and (_is_past(mention, reading) or _is_ability(mention, reading)):
        return True
    if mention.kind is Kind.ANATOMY:
        return (
            reading.sentences[mention.begin] in reading.generalities
            or is_landmark(reading.folded, mention.begin)
            or is_out_of_view(reading.folded, mention.end)
        )
    return False


def _is_past(mention: Mention, reading: Reading) -> bool:
    """Whether it was there on an earlier image: "the effusion has resolved"."""
    behind = [reading.attributes[at] for at in range(mention.end, mention.end + 4) if at in reading.attributes]
    is_subject = reading.folded[mention.end : mention.end + 1] in (["has"], ["have"], ["is"], ["are"])
    return is_subject and any(other.kind is Kind.CHANGE and other.value == "resolved" for other in behind)


def _is_ability(mention: Mention, reading: Reading) -> bool:
    """Whether the clause says what a modality cannot show: "an X-ray can't show the brain"."""
    before = reading.clause_before(mention.begin)
    if "cannot" not in before and not {("not", "can"), ("not", "ca"), ("not", "could")}.intersection(pairwise(before)):
        return False
    begin = mention.begin - len(before)
    return any(other.kind is Kind.MODALITY for at, other in reading.image_words.items() if begin <= at < mention.begin)


def _is_subject_of_not(mention: Mention, reading: Reading) -> bool:
    """Whether an attribute of the mention is negated and not the mention: "the kidney is not large", "the liver is not on the right"."""
    copula, negation, *_ = [*reading.folded[mention.end : mention.end + 2], "", ""]
    after = mention.end + 2
    return (
        copula in COPULAS
        and negation == "not"
        and (after in reading.attributes or reading.folded[after : after + 1] in (["on"], ["in"], ["at"]))
        and VIEWS.isdisjoint(reading.folded[after : after + 3])  # "the liver is not in the image" negates the liver
    )


def _negate_lists(stances: list[Stance], reading: Reading) -> None:
    """ "No fracture, effusion or pneumothorax" negates all three: a list with "or" or "nor", or of three or more."""
    mentions = reading.mentions
    first = 0
    for number in range(1, len(mentions) + 1):
        if number < len(mentions) and mentions[number].kind is mentions[first].kind:
            gap = reading.folded[mentions[number - 1].end : mentions[number].begin]
            if gap and _LIST_WORDS.issuperset(gap):
                continue
        between = reading.folded[mentions[first].end : mentions[number - 1].begin] if first < number - 1 else []
        if stances[first] is Stance.NEGATED and mentions[first].kind in _NAMES:
            is_list = "or" in between or "nor" in between or ("and" in between and number - first > 2)
            stances[first + 1 : number] = [Stance.NEGATED if is_list else stance for stance in stances[first + 1 : number]]
        first = number


def _deny_subjects(stances: list[Stance], reading: Reading) -> None:
    """ "Lung and brain are not visible" is about both; of "I see the lung and the brain is .." nobody knows."""
    nouns = [number for number, mention in enumerate(reading.mentions) if mention.is_noun]
    for place, number in enumerate(nouns):
        last = reading.mentions[number]
        if reading.folded[last.end : last.end + 1] not in (["are"], ["were"], ["can"], ["ca"], ["cannot"]):
            continue
        if stances[number] is Stance.AFFIRMED:
            continue
        first = place
        while first and _is_listed(reading, nouns[first - 1], nouns[first]):
            first -= 1
        before = [word for word in reading.unclaimed[: reading.mentions[nouns[first]].begin][-4:] if word and word not in ARTICLES]
        is_subject = not before or before[-1] in CLAUSE_ENDS
        for other in nouns[first:place]:
            if stances[other] is Stance.AFFIRMED:
                stances[other] = stances[number] if is_subject else Stance.OPEN


def _is_listed(reading: Reading, number: int, following: int) -> bool:
    """Whether two nouns stand in one list: "the left lung, the brain and the liver"."""
    first, second = reading.mentions[number], reading.mentions[following]
    gap = reading.unclaimed[first.end : second.begin]
    return first.kind is second.kind and bool(gap) and (_LIST_WORDS | {""}).issuperset(gap)


def _leave_several_open(stances: list[Stance], reading: Reading) -> None:
    """An image has one modality and one weighting, so a sentence that affirms two of them weighs them: "I consider CT and MRI"."""
    affirmed: dict[tuple[int, Kind], dict[int, str]] = {}
    for number, mention in enumerate(reading.mentions):
        value: str | None = mention.value
        if mention.kind is Kind.TECHNIQUE:
            value = next((word for word in fold_term(mention.value) if word in ("t1", "t2")), None)
        if mention.kind in (Kind.MODALITY, Kind.TECHNIQUE) and value is not None and stances[number] is Stance.AFFIRMED:
            affirmed.setdefault((reading.sentences[mention.begin], mention.kind), {})[number] = value
    for values in affirmed.values():
        if len(set(values.values())) > 1:
            for number in values:
                stances[number] = Stance.OPEN


def _state(number: int, stances: Sequence[Stance], reading: Reading) -> Statement | None:
    """The statement of one mention; None where it states nothing."""
    mention, stance = reading.mentions[number], stances[number]
    about = None
    if stance is Stance.OPEN or is_part_of_organ(mention, reading):
        return None
    if mention.kind in ATTRIBUTES:
        about = find_subject(mention, reading)
        if stance is Stance.AFFIRMED and _is_of_open_noun(number, about, stances, reading):
            return None
    elif mention.kind is Kind.PRESENCE:
        if mention.is_generic and not _is_new(mention, stance, reading):
            return None
        if stance is Stance.NEGATED:
            if _has_attribute(number, reading):
                return None
            about = _organ_behind(number, reading)
    return Statement(
        kind=mention.kind,
        value=LESION if mention.is_generic else mention.value,
        about=about,
        holds=stance is Stance.AFFIRMED,
        begin=reading.spans[mention.begin][0],
        end=reading.spans[mention.end - 1][1],
    )


def _is_of_open_noun(number: int, about: str | None, stances: Sequence[Stance], reading: Reading) -> bool:
    """Whether the noun behind an attribute is not affirmed: "the left kidney is not visible", "a large tumour is unlikely"."""
    noun = noun_behind(reading.mentions[number], reading)
    if not isinstance(noun, Mention) or (noun.kind is Kind.ANATOMY and fold_term(noun.value) != fold_term(about or "")):
        return False
    place = next(other for other in range(number + 1, len(stances)) if reading.mentions[other] is noun)
    return stances[place] is not Stance.AFFIRMED


def _is_new(mention: Mention, stance: Stance, reading: Reading) -> bool:
    """Whether the presence of a lesion is stated, not only taken for granted: "there is a lesion", but not "the lesion lies"."""
    if mention.value not in LESION_WORDS:
        return False
    before = reading.folded[max(0, mention.begin - _DETERMINER_DISTANCE) : mention.begin]
    determiner = next((word for word in reversed(before) if word in _INDEFINITE | _DEFINITE), None)
    behind = reading.clause_behind(mention.end)[:3]
    return stance is Stance.NEGATED or determiner in _INDEFINITE or not _PERCEIVED.isdisjoint(behind)


def _has_attribute(number: int, reading: Reading) -> bool:
    """Whether a negated finding is negated only with an attribute: "no large effusion", "no mass on the left", "no other lesion"."""
    mention = reading.mentions[number]
    if not _OTHERS.isdisjoint(reading.folded[max(0, mention.begin - 2) : mention.begin]):
        return True
    return mention.begin - 1 in reading.attributes or any(other.kind in PLACES for other in _same_clause(number, reading))


def _organ_behind(number: int, reading: Reading) -> str | None:
    """The organ in which a finding is denied: "no mass in the liver"."""
    return next((other.value for other in _same_clause(number, reading) if other.kind is Kind.ANATOMY), None)


def _same_clause(number: int, reading: Reading) -> list[Mention]:
    """The mentions behind one in its clause."""
    end = reading.mentions[number].end
    found = []
    for other in reading.mentions[number + 1 :]:
        if not CLAUSE_ENDS.isdisjoint(reading.folded[end : other.begin]):
            break
        found.append(other)
        end = max(end, other.end)
    return found


# Repeating the answer


def _repeated(text: str, reading: Reading, statements: Sequence[Statement], index: TermIndex, answer: str) -> frozenset[int]:
    """The numbers of the affirmed statements that are the answer itself: its value, its phrase, or a part of its text."""
    forms = _forms_of(answer, index)
    values = frozenset().union(*(_values_of(form, index) for form in forms))
    places = [place for form in forms for place in _places_of(form, reading)]
    return frozenset(
        number
        for number, statement in enumerate(statements)
        if statement.holds
        and (
            (statement.kind, fold_term(statement.value)) in values
            or any(is_same_text(said, form) for said in (statement.value, text[statement.begin : statement.end]) for form in forms)
            or any(begin <= statement.begin and statement.end <= end for begin, end in places)
        )
    )


@lru_cache(maxsize=1024)
def _forms_of(answer: str, index: TermIndex) -> tuple[str, ...]:
    """The answer, and what stands before a qualifier that states nothing: "tumour, as shown" is "tumour" too."""
    before, comma, qualifier = answer.rpartition(",")
    return (answer, before) if comma and before.strip() and not _read(find_mentions(qualifier, index)) else (answer,)


@lru_cache(maxsize=1024)
def _values_of(answer: str, index: TermIndex) -> frozenset[tuple[Kind, Phrase]]:
    """The values that an answer states as a whole."""
    return frozenset(
        (statement.kind, fold_term(statement.value))
        for statement in _read(find_mentions(answer, index))
        if is_same_text(answer[statement.begin : statement.end], answer)
    )


def _places_of(phrase: str, reading: Reading) -> list[tuple[int, int]]:
    """The characters of every occurrence of a phrase in a text."""
    wanted, words, spans = list(fold_phrase(phrase)), reading.folded, reading.spans
    starts = [number for number, word in enumerate(words) if word == wanted[0]] if wanted else []
    return [(spans[start][0], spans[start + len(wanted) - 1][1]) for start in starts if words[start : start + len(wanted)] == wanted]
