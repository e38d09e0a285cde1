"""Read what a reasoning states about its image, and compare it with the facts. The grammar is described in docs/statements.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Final

from osler.facts import Fact, Facts, Kind, Statement, Term, Truth
from osler.grading.mentions import ATTRIBUTES, PLACES, Mention, Reading, find_mentions
from osler.grading.open_answer import is_same_text
from osler.grading.relevance import bears_on
from osler.grading.stance import CLAUSE_ENDS, COPULAS, PREPOSITIONS, Stance, read_stance
from osler.grading.subjects import find_subject, is_part_of_organ
from osler.grading.terms import LESION, LESION_WORDS, PARTS, VAGUE_FINDINGS, Phrase, findings, fold_term, organs
from osler.taxonomy import QuestionType
from osler.text import fold_phrase, locate_words, split_words

_NAMES: Final = frozenset({Kind.PRESENCE, Kind.SIGN})
_INCLUSIVE: Final = frozenset({Kind.TECHNIQUE, Kind.PRESENCE, Kind.POSITION, Kind.SIDE})
_ANATOMY_QUALIFIERS: Final = frozenset({"axial", "sagittal", "coronal", "left", "right", "upper", "level", "peripheral"})
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
    statements = read_statements(reasoning, terms)
    repeated = _repeated(reasoning, statements, terms, answer_text) if answer_text else frozenset()
    meanings = _meanings_of_signs(tuple(terms))
    return tuple(
        replace(
            statement,
            truth=check(statement, facts),
            repeats_answer=number in repeated,
            is_relevant=bears_on(question_type, statement.kind, meanings.get(statement.value, frozenset())),
        )
        for number, statement in enumerate(statements)
    )


@lru_cache(maxsize=8)
def _meanings_of_signs(terms: tuple[Term, ...]) -> Mapping[str, frozenset[Kind]]:
    """What each sign of a dataset is a sign of."""
    meanings: dict[str, frozenset[Kind]] = {}
    for term in terms:
        if term.sign_of is not None:
            meanings[term.value] = meanings.get(term.value, frozenset()) | {term.sign_of}
    return meanings


# Reading


def read_statements(text: str, terms: Sequence[Term] = ()) -> tuple[Statement, ...]:
    """The statements of a text in order, not yet checked. `terms` are phrases of the dataset. No text raises."""
    reading = find_mentions(text, terms)
    stances = [_stance(mention, reading) for mention in reading.mentions]
    _negate_lists(stances, reading)
    _leave_several_open(stances, reading)
    statements = (_state(number, stances, reading) for number in range(len(stances)))
    return tuple(statement for statement in statements if statement is not None)


def _stance(mention: Mention, reading: Reading) -> Stance:
    """Whether a mention is affirmed, negated or left open."""
    words, begin, end = reading.unclaimed, mention.begin, mention.end
    if reading.sentences[begin] in reading.questions:
        return Stance.OPEN
    if reading.is_joined[end - 1] and words[end : end + 1] in (["like"], ["free"]):  # "tumour-like"
        return Stance.OPEN
    if mention.is_noun and _is_subject_of_not(mention, reading):
        end = len(words)
    through = read_stance(words, begin, end, through_prepositions=True)
    if through is Stance.AFFIRMED or mention.kind in ATTRIBUTES - PLACES:
        return through
    near = read_stance(words, begin, end, through_prepositions=False)
    if near is not Stance.AFFIRMED:
        is_presupposed = mention.kind is Kind.ANATOMY and words[begin - 1 : begin] == ["the"]  # "neither the liver nor the spleen is large"
        return Stance.OPEN if is_presupposed and near is Stance.NEGATED else near
    if mention.kind in PLACES:  # "not on the left" negates the side; "no mass on the left" leaves it open
        preposition = next((at for at in range(begin - 1, max(-1, begin - 4), -1) if words[at] in PREPOSITIONS), 0)
        return Stance.NEGATED if preposition and words[preposition - 1] == "not" else Stance.OPEN
    if mention.kind in _NAMES:  # "no shift with the tumour" presupposes a tumour, "not in keeping with tumour" does not
        return Stance.AFFIRMED if words[begin - 1 : begin] == ["the"] else through
    return Stance.AFFIRMED


def _is_subject_of_not(mention: Mention, reading: Reading) -> bool:
    """Whether an attribute of the mention is negated and not the mention: "the kidney is not large", "the liver is not on the right"."""
    copula, negation, *_ = [*reading.folded[mention.end : mention.end + 2], "", ""]
    after = mention.end + 2
    return (
        copula in COPULAS
        and negation == "not"
        and (after in reading.attributes or reading.folded[after : after + 1] in (["on"], ["in"], ["at"]))
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


def _leave_several_open(stances: list[Stance], reading: Reading) -> None:
    """An image has one modality, so a sentence that affirms two of them weighs them: "I consider CT and MRI"."""
    affirmed: dict[int, dict[int, str]] = {}
    for number, mention in enumerate(reading.mentions):
        if mention.kind is Kind.MODALITY and stances[number] is Stance.AFFIRMED:
            affirmed.setdefault(reading.sentences[mention.begin], {})[number] = mention.value
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


def _repeated(text: str, statements: Sequence[Statement], terms: Sequence[Term], answer: str) -> frozenset[int]:
    """The numbers of the affirmed statements that are the answer itself: its value, its phrase, or a part of its text."""
    values = {
        (statement.kind, fold_term(statement.value))
        for statement in read_statements(answer, terms)
        if is_same_text(answer[statement.begin : statement.end], answer)
    }
    places = _places_of(answer, text)
    return frozenset(
        number
        for number, statement in enumerate(statements)
        if statement.holds
        and (
            (statement.kind, fold_term(statement.value)) in values
            or is_same_text(statement.value, answer)
            or is_same_text(text[statement.begin : statement.end], answer)
            or any(begin <= statement.begin and statement.end <= end for begin, end in places)
        )
    )


def _places_of(phrase: str, text: str) -> list[tuple[int, int]]:
    """The characters of every occurrence of a phrase in a text."""
    wanted, words = list(fold_phrase(phrase)), split_words(text)
    spans = locate_words(text, words)
    starts = [number for number, word in enumerate(words.folded) if word == wanted[0]] if wanted else []
    return [(spans[start][0], spans[start + len(wanted) - 1][1]) for start in starts if words.folded[start : start + len(wanted)] == wanted]


# Checking


def check(statement: Statement, facts: Facts) -> Truth:
    """Whether a statement is true by the facts; NOT_CHECKABLE where they say nothing, or different things about several findings."""
    related = [fact for fact in facts.facts if _is_related(fact, statement, facts)]
    same = [fact for fact in related if fold_term(fact.value) == fold_term(statement.value) and _settles(fact, statement)]
    agreements = {fact.holds == statement.holds for fact in same or related if _settles(fact, statement)}
    subjects = {fact.about for fact in related}
    if statement.kind in ATTRIBUTES and statement.about is None and None not in subjects and len(subjects) > 1:
        truths = {check(replace(statement, about=about), facts) for about in subjects}
        return truths.pop() if len(truths) == 1 else Truth.NOT_CHECKABLE
    if agreements:
        return _truth(agreements.pop()) if len(agreements) == 1 else Truth.NOT_CHECKABLE
    if statement.kind is Kind.POSITION and (parts := _check_parts(statement, facts)) is not None:
        return parts
    is_unknown = not related and any(fact.kind is statement.kind for fact in facts.facts)
    if statement.kind not in facts.closed or is_unknown or _may_hold_too(statement, related):
        return Truth.NOT_CHECKABLE
    return _truth(not statement.holds)


def _truth(is_true: bool) -> Truth:
    return Truth.TRUE if is_true else Truth.FALSE


def _is_related(fact: Fact, statement: Statement, facts: Facts) -> bool:
    """Whether a fact is of the statement's kind and about the same thing. None is the only lesion: any finding, but no organ."""
    if fact.kind is not statement.kind and (fact.kind, statement.kind) != (Kind.POSITION, Kind.SIDE):
        return False
    if statement.kind not in ATTRIBUTES or fact.about == statement.about:
        return True
    own, other = fold_term(fact.about or ""), fold_term(statement.about or "")
    if not other:
        return tuple(word for word in own if word not in ("left", "right")) not in organs()
    if not own:
        return other in findings() or any(fold_term(known.value) == other for known in facts.facts if known.kind is Kind.PRESENCE)
    return set(own) <= set(other) or set(other) <= set(own)


def _settles(fact: Fact, statement: Statement) -> bool:
    """Whether a statement with the fact's stance is true by it: of the same value, or of one that follows from it.

    From "pleural effusion" follows "effusion", from "upper left" "left", from "kidney" "abdomen", and from "no effusion" "no pleural
    effusion". "No mass in the liver" follows from "no mass", but is not false where there is a mass.
    """
    known, stated = fold_term(fact.value), fold_term(statement.value)
    if statement.kind is Kind.PRESENCE and statement.about is not None and fact.about is None and fact.holds:
        return False
    if known == stated:
        return True
    if _includes(statement.kind, *((stated, known) if fact.holds else (known, stated))):
        return True
    if not fact.holds:
        return False
    return (
        (statement.kind is Kind.ANATOMY and fact.value in PARTS.get(statement.value, ()))
        or (statement.kind is Kind.SIDE and fact.value == "bilateral" and statement.value in ("left", "right"))
        or (statement.kind is Kind.PRESENCE and statement.value == LESION and fact.value not in (LESION, "normal"))
    )


def _includes(kind: Kind, shorter: Phrase, longer: Phrase) -> bool:
    """Whether a name includes the same name with more words: an effusion is any effusion, but a head is no femoral head."""
    if not set(shorter) < set(longer):
        return False
    if kind is Kind.ANATOMY:
        return set(longer) - set(shorter) <= _ANATOMY_QUALIFIERS
    denied = {after for word, after in pairwise(longer) if word == "non"}
    return kind in _INCLUSIVE and denied.isdisjoint(shorter)


def _check_parts(statement: Statement, facts: Facts) -> Truth | None:
    """Check "upper left" as "upper" and "left"; None where that does not decide it."""
    vertical, _, side = statement.value.partition(" ")
    if vertical not in ("upper", "lower") or side not in ("left", "right"):
        return None
    parts = {
        check(replace(statement, value=vertical, holds=True), facts),
        check(replace(statement, kind=Kind.SIDE, value=side, holds=True), facts),
    }
    if Truth.FALSE in parts:
        return _truth(not statement.holds)
    return _truth(statement.holds) if parts == {Truth.TRUE} else None


def _may_hold_too(statement: Statement, related: Sequence[Fact]) -> bool:
    """Whether a value that is not listed can hold beside a listed one: a lung on an image of the chest, an opacity that is a tumour."""
    holding = [fact for fact in related if fact.holds]
    if statement.kind is Kind.ANATOMY:
        return any(statement.value in PARTS.get(fact.value, ()) for fact in holding)
    if statement.kind is not Kind.PRESENCE:
        return False
    if not statement.holds and statement.about is not None:
        return any(fold_term(fact.value) == fold_term(statement.value) for fact in holding)
    return statement.value in VAGUE_FINDINGS and any(fact.value != "normal" for fact in holding)
