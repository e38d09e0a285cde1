"""Turn questions with only a right answer into multiple choice.

The first rule that applies gives the choices: yes and no; the alternatives that the question names; distractors drawn from the right
answers of the same content type and modality, if there are few of them. Otherwise the question stays open-ended. The random numbers depend
only on the seed and the row's id, so a row always gets the same choices.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from osler.facts import Facts, Term
from osler.images.files import ImageFile
from osler.taxonomy import Modality, QuestionType
from osler.text import fold_words
from osler.types import LETTERS, Sample

MAX_ANSWER_SET: Final = 12
"""Questions stay open-ended if their content type has more distinct right answers than this."""

MIN_ROWS_PER_ANSWER: Final = 5
"""Questions stay open-ended if the right answers of their content type repeat less often on average: they are phrases, not categories."""

MIN_COUNT: Final = 3
"""A distractor is the right answer of at least this many questions; rarer answers may be typing errors."""

NUM_CHOICES: Final = 4

# A Chinese yes-no question is answered by its verb, with or without a negation.
_YES_NO: Final = (("yes", "no"), ("是的", "不是"), ("是", "否"), ("包含", "不包含"), ("包括", "不包括"), ("有", "没有"), ("存在", "不存在"),
                  ("可以", "不可以"), ("正常", "不正常"))  # fmt: skip

# Content types of SLAKE and VQA-RAD after `fold_words`, including VQA-RAD's misspellings.
_CONTENT_TYPES: Final = {
    QuestionType.MODALITY_RECOGNITION: ("modality",),
    QuestionType.ANATOMY_IDENTIFICATION: ("organ", "position", "pos", "plane"),
    QuestionType.DISEASE_DIAGNOSIS: ("abnormality", "abn", "pres", "prse"),
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: ("size", "quantity", "count", "color", "shape", "attrib", "atrib", "other", "kg"),
}
_QUESTION_TYPES: Final = {name: question_type for question_type, names in _CONTENT_TYPES.items() for name in names}

# "MRI" and "T2" can both be right for one image, so a weighting gets only weightings as distractors, and a modality only modalities.
_WEIGHTINGS: Final = frozenset({"t1", "t2", "flair", "dwi"})

# Words with the same meaning for an image; they are never distractors of each other.
_SAME: Final = {"grey": "gray", "transverse": "axial", "hyperdense": "white", "hypodense": "black", "xray": "x ray", "x光": "x ray",
                "核磁共振": "mri", "高密度": "白色", "低密度": "黑色", "椭圆形": "椭圆", "肺脏": "肺"}  # fmt: skip

# Alternatives that questions name although no row has them as its answer.
_ALWAYS_KNOWN: Final = ("T1", "T2", "left", "right", "both")

_TRIM: Final = re.compile(r"^(?:on|in|at)\s+(?:the\s+)?|^the\s+|(?:\s+sides?|[\s-]+weighted)$", re.IGNORECASE)
_OR: Final = re.compile(r"(?:\s+[\w-]+){0,2}?,?\s+or\s+(?:on\s+|in\s+)?(?:an?\s+|the\s+)?|\s*(?:还是|和|或)\s*", re.IGNORECASE)
_COMMA: Final = re.compile(r"(?:[\s-]+weighted)?\s*[,，、]\s*", re.IGNORECASE)
_WORD_OR_WORD: Final = re.compile(r"((?:[\w-]+,\s*)*[\w-]+),?\s+or\s+(?:an?\s+|the\s+)?([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The choices and target of a question, as in a Sample."""

    choices: tuple[str, ...]  # () for an open-ended question
    target: str  # a letter, or the right text of an open-ended question


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A row with a question and its right answer."""

    id: str  # "slake/10513"
    question: str
    answer: str
    content_type: str
    answer_type: str  # "OPEN" or "CLOSED"
    modality: Modality | None
    language: str = "en"
    split: str = "train"
    raw: Mapping[str, Any] = field(default_factory=dict)  # the row as in the file


def close_yes_no(answer: str, rng: random.Random, notes: Counter[str]) -> Closed:
    """A choice of yes and no in random order where the answer is one of them, else the open question. `notes` counts both."""
    if pair := _yes_no_pair(answer.rstrip(".")):
        notes["question made a choice of yes and no"] += 1
        return arrange(pair, answer, rng)
    notes["question made open-ended"] += 1
    return Closed(choices=(), target=answer)


def parse_content_type(raw: str) -> QuestionType | None:
    """The question type of a content type such as "Organ" or "PRES, ABN"; None if it is unknown, or if its parts have different types."""
    named = {_QUESTION_TYPES.get(fold_words(part)) for part in raw.split(",")}
    return named.pop() if len(named) == 1 else None


class AnswerPool:
    """The right answers of all questions of a dataset; `close` turns one question into multiple choice."""

    def __init__(self, rows: Iterable[Answered], *, seed: int) -> None:
        self._seed = seed
        # By language and content type; by these and answer type; by these and modality.
        self._answers: defaultdict[tuple[str | None, ...], Counter[str]] = defaultdict(Counter)
        for row in rows:
            answer = present(row.answer)
            if _yes_no_pair(answer) is None:
                key = (row.language, row.content_type, row.answer_type, row.modality)
                for length in (2, 3, 4):
                    self._answers[key[:length]][answer] += 1
        self._patterns = {key: _known_pattern(answers) for key, answers in self._answers.items() if len(key) == 2}
        self._num_answers = {key: len({fold_words(text) for text in answers}) for key, answers in self._answers.items() if len(key) == 3}

    def close(self, row: Answered, notes: Counter[str]) -> Closed:
        """The choices of a question in random order, and its target. Counts the rule that applied in `notes`."""
        answer, key = present(row.answer), (row.language, row.content_type)
        rng = random.Random(f"{self._seed}/{row.id}")
        if pair := _yes_no_pair(answer):
            closed, outcome = arrange(pair, answer, rng), "a choice of yes and no"
        elif named := _named(row.question, answer, self._answers[key], self._patterns[key]):
            closed, outcome = arrange(named, _trim(answer), rng), "a choice of the alternatives that it names"
        elif drawn := self._draw(row, answer, rng):
            closed, outcome = arrange((answer, *drawn), answer, rng), "a choice with drawn distractors"
        else:
            closed, outcome = Closed(choices=(), target=row.answer), "open-ended"
        notes[f"{row.answer_type} question made {outcome}"] += 1
        return closed

    def make_sample(
        self,
        row: Answered,
        dataset: str,
        image_root: Path,
        image: str,
        notes: Counter[str],
        *,
        subject_id: str | None,
        facts: Facts | None = None,
        terms: tuple[Term, ...] = (),
        **metadata: Any,
    ) -> Sample:
        """The sample of a row, multiple choice if `close` finds choices. The metadata keep the answer and what the choices depend on."""
        closed = self.close(row, notes)
        return Sample(
            id=row.id,
            dataset=dataset,
            images=(ImageFile(root=image_root, path=image),),
            question=row.question,
            choices=closed.choices,
            target=closed.target,
            modality=row.modality,
            question_type=parse_content_type(row.content_type),
            subject_id=subject_id,
            facts=facts,
            terms=terms,
            metadata={
                "answer": row.answer,
                "answer_type": row.answer_type,
                "content_type": row.content_type,
                **metadata,
                "split": row.split,
            },
        )

    def _draw(self, row: Answered, answer: str, rng: random.Random) -> tuple[str, ...]:
        """Up to three distractors of the same content type: of the same modality, or of any modality if that gives none."""
        key = (row.language, row.content_type, row.answer_type)
        answers, num_answers = self._answers[key], self._num_answers[key]
        if num_answers > MAX_ANSWER_SET or answers.total() < MIN_ROWS_PER_ANSWER * num_answers:
            return ()
        for pool in (self._answers[*key, row.modality], answers):
            if usable := _distractors(answer, pool):
                return tuple(rng.sample(usable, min(NUM_CHOICES - 1, len(usable))))
        return ()


def _distractors(answer: str, pool: Counter[str]) -> list[str]:
    """The answers of `pool` that can be distractors of `answer`, each in its most frequent spelling, sorted."""
    counts: Counter[tuple[str, ...]] = Counter()
    spelling: dict[tuple[str, ...], str] = {}
    for text in sorted(pool, key=lambda text: (pool[text], text)):  # the most frequent spelling comes last
        counts[_concept(text)] += pool[text]
        spelling[_concept(text)] = text
    return sorted(text for concept, text in spelling.items() if counts[concept] >= MIN_COUNT and _is_apart(answer, text))


def _is_apart(answer: str, other: str) -> bool:
    """Whether both answers cannot be right for one image: neither contains the words of the other, and both or neither are weightings."""
    words, other_words = _concept(answer), _concept(other)
    if (words[0] in _WEIGHTINGS) != (other_words[0] in _WEIGHTINGS):
        return False
    if set(words) <= set(other_words) or set(other_words) <= set(words):
        return False
    joined = ("".join(words), "".join(other_words))
    return joined[0].isascii() or (joined[0] not in joined[1] and joined[1] not in joined[0])


@lru_cache(maxsize=4096)
def _concept(text: str) -> tuple[str, ...]:
    return tuple(" ".join(_SAME.get(word, word) for word in fold_words(text).split()).split()) or (text,)


def _named(question: str, answer: str, known: Iterable[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The alternatives that a question names: ("Which is bigger, liver or heart?", "Heart") -> ("Liver", "Heart"); () if it names none."""
    text = " ".join(question.split())
    if not re.search(r"\bor\b|还是|和|或|[,，、]", text, re.IGNORECASE):
        return ()
    run = _known_run(text, answer, pattern)
    if not run:
        return _single_words(text, answer)
    spelling = {fold_words(text): text for text in map(_trim, (*sorted(known), answer))}
    return tuple(spelling.get(fold_words(word), present(word)) for word in run)


def _known_pattern(known: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the known answers, the longest first; ASCII answers only as whole words."""
    folded = {fold_words(_trim(text)) for text in (*known, *_ALWAYS_KNOWN)} - {""}
    longest_first = sorted(folded, key=lambda text: (-len(text), text))
    parts = (r"[\s_-]+".join(map(re.escape, text.split())) for text in longest_first)
    return re.compile("|".join(rf"\b{part}\b" if part.isascii() else part for part in parts), re.IGNORECASE)


def _known_run(text: str, answer: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The known answers that "x, y or z" joins and that include the right one; () if there is no such text, or more than one."""
    runs: list[list[str]] = []
    end, is_complete = 0, True
    for match in pattern.finditer(text):
        gap = text[end : match.start()]
        is_or = bool(_OR.fullmatch(gap))
        if not is_complete and (is_or or _COMMA.fullmatch(gap)):
            runs[-1].append(match[0])
        else:
            runs.append([match[0]])
        end, is_complete = match.end(), is_or and len(runs[-1]) > 1
    right = fold_words(_trim(answer))
    matching = [run for run in runs if len(run) > 1 and right in map(fold_words, run) and len(set(map(fold_words, run))) == len(run)]
    return tuple(matching[0]) if len(matching) == 1 else ()


def _single_words(text: str, answer: str) -> tuple[str, ...]:
    """The single words that "x, y or z" joins and that include the right answer; () if there is no such text."""
    for match in _WORD_OR_WORD.finditer(text):
        words = [*re.split(r",\s*", match[1]), match[2]]
        if len({fold_words(word) for word in words}) == len(words) and fold_words(answer) in map(fold_words, words):
            return tuple(answer if fold_words(word) == fold_words(answer) else present(word) for word in words)
    return ()


def _yes_no_pair(answer: str) -> tuple[str, str] | None:
    return next(((yes.capitalize(), no.capitalize()) for yes, no in _YES_NO if answer.lower() in (yes, no)), None)


def arrange(texts: Sequence[str], answer: str, rng: random.Random) -> Closed:
    """The texts in random order as choices; `answer` is one of them, but for case and signs."""
    choices = rng.sample(list(texts), len(texts))
    index = next(index for index, choice in enumerate(choices) if fold_words(choice) == fold_words(answer))
    return Closed(choices=tuple(choices), target=LETTERS[index])


def present(text: str) -> str:
    """`text` with single spaces and a capital first letter, so that the spelling of an option does not reveal the right answer."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def _trim(text: str) -> str:
    """The alternative without the words around it: "On the left side" -> "Left"."""
    return present(_TRIM.sub("", text.strip()) or text)
