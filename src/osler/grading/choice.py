"""Which option a text gives as its answer. A small grammar over words, read left to right; options inside running prose do not count.

item      an option's text, a letter, or both: "MRI" | "(B)" | "Option B" | "B) MRI" | "MRI (B)"
sequence  items with separators and negations: "A or B" | "A, not B" | "not A but B"
line      a line that is a sequence; prose may follow on the first line: "B. The ring is bright."
claim     a sequence after a cue: "the answer is B" | "answer: B" | "\\boxed{B}" | "答案是B" | "I choose B"
judgement an item that is called right or wrong: "B is correct" | "A is wrong"
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from osler.grading.option_index import OptionIndex, letter_index
from osler.text import ARTICLES, INNER_DOT, MAX_LENGTH, Words, split_words, trim_phrase

MAX_ITEMS: Final = 32
MAX_LINKS: Final = 8

_OPENERS: Final = frozenset("([{")
_CLOSERS: Final = frozenset(")]}")
_DELIMITERS: Final = frozenset({")", "]", "}", ".", ":", "-", "=", INNER_DOT})
_SENTENCE_ENDS: Final = frozenset(".!?;\n")
_CLAUSE_ENDS: Final = _SENTENCE_ENDS | {","}
_LABELS: Final = frozenset({"option", "choice", "letter", "lettre", "buchstabe", "letra", "lettera", "opción", "opzione", "вариант"})
_BOTH: Final = frozenset({"either", "both"})
_SEPARATORS: Final = _BOTH | frozenset(
    {",", "/", "&", "+", "or", "and", "maybe", "perhaps", "possibly", "oder", "und", "ou", "et", "oppure"} | set("或者和与")
)
_NOT: Final = frozenset(
    {"not", "never", "neither", "nor", "except", "nicht", "kein", "keine", "weder", "noch", "pas", "ni", "не"} | set("不非")
)
_NOT_PAIRS: Final = frozenset({("rather", "than"), ("instead", "of"), ("不", "是")})
_BUT: Final = frozenset({"but", "sondern", "mais", "sino", "而", "а", "но"})
_BECAUSE: Final = frozenset(
    {"because", "since", "as", "due", "given", "based", "although", "though", "while", "whereas", "weil", "da", "denn", "car", "因"}
)
_PREPOSITIONS: Final = frozenset({"with", "for", "in", "on", "from", "by", "which", "where", "when", "here"})
_PLAIN: Final = ARTICLES | _BECAUSE | _PREPOSITIONS | {"it", "this", "there", "not", "is"}

_CUES: Final = frozenset(
    {"answer", "answers", "réponse", "reponse", "antwort", "lösung", "respuesta", "risposta", "resposta", "ответ", "boxed"}
    | {"choose", "chose", "chosen", "pick", "picked", "select", "selected", "think", "believe", "guess", "选", "選"}
)
_CUE_PAIRS: Final = frozenset({("答", "案"), ("正", "解"), ("答", "え"), ("it", "is"), ("it", "s"), ("this", "is")})
_LINKS: Final = frozenset(
    _LABELS
    | {"is", "was", "are", "would", "should", "must", "be", ":", "=", "-", "{", "the", "to", "this", "that", "it", "question"}
    | {"correct", "right", "best", "final", "most", "likely", "probably", "definitely", "clearly", "therefore", "thus", "answer"}
    | {"est", "la", "ist", "die", "lautet", "richtige", "es", "è", "é", "correcte", "correcta"}
    | set("是为為は应该择擇项項")
)
_LABEL_LINKS: Final = frozenset({"is", "would", "should", ":", "=", "est", "ist", "es", "è"})
_COPULAS: Final = frozenset({"is", "are", "was", "est", "ist", "es", "è"} | set("是不错"))
_WRONG: Final = frozenset({"not", "incorrect", "wrong", "false", "unlikely", "neither", "faux", "falsch", "incorrecta", "错", "不"})
_RIGHT: Final = frozenset({"correct", "right", "answer", "best", "true", "richtig", "correcte", "correcta", "对", "正"})
_STARTERS: Final = frozenset({"so", "therefore", "thus", "hence", "finally", "ok", "okay", "sure", ",", ":", ">", "-", "•"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One accepted mention of an option."""

    options: frozenset[int]  # one option, or several that share a text; {25} for Z even where there are four choices
    end: int  # position after it
    kind: str  # "letter", "text", "letter_and_text"; "disagreement" where letter and text name different options


@dataclass(slots=True, kw_only=True)
class ItemSequence:
    """Adjacent items, those affirmed and those negated."""

    claimed: list[Item] = field(default_factory=list)
    negated: list[Item] = field(default_factory=list)
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The option that a text gives as its answer, or why it gives none."""

    option: int | None  # None for all kinds but the first three
    kind: str  # "letter", "text", "letter_and_text"; "several", "disagreement", "duplicate_text"; "negated", "not_an_option", "empty"


def read_choice(text: str, options: OptionIndex) -> Reading:
    """Read the option that a text gives as its answer. `option` may lie beyond the choices: "E" with four choices gives 4."""
    text = text.strip()
    letter = letter_index(text.lower())
    if letter is not None and letter < options.num_choices:  # the usual answer needs no grammar
        return Reading(option=letter, kind="letter")
    words = split_words(_unwrap_json(text))
    if not words.folded:
        return Reading(option=None, kind="empty")
    if (whole := options.by_text.get(trim_phrase(words.folded))) is not None:  # before any grammar: "Not enhanced" may be an option
        return Reading(option=next(iter(whole)), kind="text") if len(whole) == 1 else Reading(option=None, kind="duplicate_text")
    if words.folded == ["n", "/", "a"]:
        return Reading(option=None, kind="not_an_option")
    reader = _Reader(words=words, options=options)
    return _settle(reader.read_claims(), reader.read_lines())


def _unwrap_json(text: str) -> str:
    """The value of "answer" where the text is one JSON object, with or without a code fence; else the text."""
    body = text.removeprefix("```json").strip("` \n")
    if body[:1] != "{" or len(body) > MAX_LENGTH:
        return text
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return text
    values = [value for key, value in fields.items() if key.lower() in {"answer", "final_answer", "choice"} and isinstance(value, str)]
    return values[0] if len(values) == 1 else text


def _settle(claims: list[ItemSequence], lines: list[ItemSequence]) -> Reading:
    """One option from all sequences. If lines list several options, only claims count; the items that count must agree."""
    negated = {option for sequence in (*claims, *lines) for item in sequence.negated for option in item.options}
    claimed, listed = (
        [item for sequence in sequences for item in sequence.claimed if not item.options <= negated] for sequences in (claims, lines)
    )
    is_list = len({option for item in listed for option in item.options}) > 1
    items = claimed if claimed and is_list else claimed + listed
    if not items:
        return Reading(option=None, kind="negated" if negated else "not_an_option")
    if any(item.kind == "disagreement" for item in claimed + listed):
        return Reading(option=None, kind="disagreement")
    common = frozenset.intersection(*(item.options for item in items))
    if len(common) == 1:
        return Reading(option=next(iter(common)), kind=items[0].kind)
    return Reading(option=None, kind="duplicate_text" if common else "several")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """The rules of the grammar as methods. Each takes a position and reads a bounded number of words from there."""

    words: Words
    options: OptionIndex

    def read_lines(self) -> list[ItemSequence]:
        """Sequences that fill a line, or begin the first line."""
        folded = self.words.folded
        begins = [0, *(i + 1 for i, word in enumerate(folded) if word == "\n")]
        sequences = []
        for begin in begins:
            position = begin
            while self._at(position) in _STARTERS and not self.options.match(folded, position):
                position += 1
            if not (sequence := self._read_sequence(position)):
                continue
            end = sequence.end
            while self._at(end) in {".", ",", ";", "!", "?"}:
                end += 1
            if begin == 0 and self._at(end) not in {"", "\n"}:
                if "?" in folded[sequence.end : end]:
                    continue  # "A? No, .." is a question
                self._add_listed_letters(sequence)
            elif self._at(end) not in {"", "\n"}:
                continue
            sequences.append(sequence)
        return sequences

    def _add_listed_letters(self, sequence: ItemSequence) -> None:
        """Add every letter of an option list on one line: "A) CT scan B) MRI scan"."""
        folded, raw = self.words.folded, self.words.raw
        position = sequence.end
        while self._at(position) not in {"", "\n"}:
            letter = letter_index(folded[position])
            if letter is not None and letter < self.options.num_choices and raw[position].isupper() and self._at(position + 1) == ")":
                sequence.claimed.append(Item(options=frozenset({letter}), end=position + 2, kind="letter"))
            position += 1

    def read_claims(self) -> list[ItemSequence]:
        """Sequences after a cue, and judgements."""
        sequences = []
        for position in range(len(self.words.folded)):
            if (begin := self._after_cue(position)) is not None and (sequence := self._read_sequence(begin)):
                if self._at(sequence.end) == "?":
                    continue
                before = self._clause_before(position)
                if before & {"if", "whether", "unless"}:
                    continue
                if before & _NOT:
                    sequence.claimed, sequence.negated = [], sequence.claimed + sequence.negated
                sequences.append(sequence)
            if self._starts_clause(position) and (judgement := self._read_judgement(position)):
                sequences.append(judgement)
        return sequences

    def _after_cue(self, position: int) -> int | None:
        """The position after a cue and its link words: that of "B" in "answer to this question is B"; None without a cue."""
        word, following = self._at(position), self._at(position + 1)
        if (word, following) in _CUE_PAIRS:
            if following in {"is", "s"} and not self._starts_clause(position):
                return None
            begin = position + 2
        elif word in _CUES or (word in _LABELS and following in _LABEL_LINKS):
            begin = position + 1
        else:
            return None
        for _ in range(MAX_LINKS):
            word = self._at(begin)
            if not (word in _LINKS or (word == "\n" and self._at(begin - 1) == ":")) or self._is_option(begin):
                break
            begin += 1
        return begin

    def _read_judgement(self, position: int) -> ItemSequence | None:
        """An option that is called right or wrong; None for any other statement about it."""
        item = self._read_item(position, may_be_subject=True)
        if item is None or self._at(item.end) not in _COPULAS:
            return None
        predicate = self.words.folded[item.end : item.end + 7]
        clause = set(takewhile(lambda word: word not in _CLAUSE_ENDS, predicate))
        if clause & _WRONG:
            return ItemSequence(negated=[item], end=item.end)
        return ItemSequence(claimed=[item], end=item.end) if clause & _RIGHT else None

    def _read_sequence(self, position: int) -> ItemSequence | None:
        sequence = ItemSequence(end=position)
        is_negated = False
        for _ in range(MAX_ITEMS):
            while self._at(position) in _BOTH and not self._is_option(position):
                position += 1
            while (negation := self._negation_length(position)) and not self._is_option(position):
                is_negated = True
                position += negation
            if self._at(position) in _BUT:
                is_negated = False
                position += 1
                continue
            if (item := self._read_item(position)) is None:
                break
            (sequence.negated if is_negated else sequence.claimed).append(item)
            sequence.end = position = item.end
            while self._at(position) in _SEPARATORS or (self._at(position) == "." and self._goes_on_behind(position)):
                position += 1
            if position == item.end and not (self._negation_length(position) or self._at(position) in _BUT or self._is_listed(position)):
                break
        return sequence if sequence.claimed or sequence.negated else None

    def _goes_on_behind(self, position: int) -> bool:
        """Whether the full stop at this position only ends an option: "Bone inflammation. or osteoporosis", "A. Not B"."""
        return self._negation_length(position + 1) > 0 or self._at(position + 1) in _SEPARATORS

    def _is_option(self, position: int) -> bool:
        """Whether an option text stands here whole, such as "both lungs" or "not enhanced"."""
        return self.options.match(self.words.folded, position) is not None and self._read_text(position, may_be_subject=False) is not None

    def _is_listed(self, position: int) -> bool:
        """Whether this is the next letter of a list without commas: the "B" of "A) CT B) MRI"."""
        return letter_index(self._at(position)) is not None and self._at(position + 1) in {")", "]"}

    def _negation_length(self, position: int) -> int:
        """How many words a negation at this position has, 0 without one."""
        if (self._at(position), self._at(position + 1)) in _NOT_PAIRS:
            return 2
        return int(self._at(position) in _NOT)

    def _read_item(self, position: int, *, may_be_subject: bool = False) -> Item | None:
        if item := self._read_text(position, may_be_subject=may_be_subject):
            return item
        begin = position
        while self._at(begin) in _OPENERS or self._at(begin) in _LABELS or (self._at(begin), self._at(begin + 1)) == ("选", "项"):
            begin += 2 if self._at(begin) == "选" else 1
        if begin > position and (item := self._read_text(begin, may_be_subject=may_be_subject)):
            return item
        return self._read_letter(begin, may_be_subject=may_be_subject)

    def _read_text(self, position: int, *, may_be_subject: bool) -> Item | None:
        """A whole option text, with or without its letter after it: "MRI", "MRI (B)"."""
        if (match := self._match_text(position)) is None:
            return None
        options, end = match
        if self._at(end) in _OPENERS and (letter := letter_index(self._at(end + 1))) is not None and self._at(end + 2) in _CLOSERS:
            if letter not in options:
                return Item(options=options | {letter}, end=end + 3, kind="disagreement")
            return Item(options=frozenset({letter}), end=end + 3, kind="letter_and_text")
        while self._at(end) in _CLOSERS:
            end += 1
        is_yes_or_no = self._at(end - 1) in {"yes", "no"} and self._at(end) == ","
        if is_yes_or_no or self._ends_text(end) or (may_be_subject and self._at(end) in _COPULAS):
            return Item(options=options, end=end, kind="text")
        return None

    def _match_text(self, position: int) -> tuple[frozenset[int], int] | None:
        """An option text at this position or after an article. A capital A is a letter, not an article."""
        match = self.options.match(self.words.folded, position)
        if match is None and self._at(position) in ARTICLES and self.words.raw[position] != "A":
            match = self.options.match(self.words.folded, position + 1)
        return match

    def _starts_new_part(self, position: int) -> bool:
        """Whether the text ends here, or a reason, a "but" or a negation begins."""
        word = self._at(position)
        return not word or word in _BECAUSE or word in _BUT or self._negation_length(position) > 0

    def _ends_text(self, position: int) -> bool:
        """Whether an option text ends here, and is not the beginning of a longer phrase."""
        word = self._at(position)
        if self.words.is_joined[position - 1]:
            return False
        if self._starts_new_part(position) or word in _SENTENCE_ENDS or self._is_listed(position):
            return True
        return word in _SEPARATORS and self._goes_on(position)

    def _goes_on(self, position: int) -> bool:
        """Whether an item, a negation, a reason or the end of the text follows the separators at this position."""
        while self._at(position) in _SEPARATORS:
            position += 1
        if self._starts_new_part(position) or self._match_text(position):
            return True
        return letter_index(self._at(position)) is not None and self.words.raw[position].isupper() and not self.words.is_joined[position]

    def _read_letter(self, position: int, *, may_be_subject: bool) -> Item | None:
        """A single letter, with or without its option text: "B", "(B)", "B) MRI", "B because ..".

        An article ("a cyst"), a pronoun ("I see"), a genus ("C. difficile") and a part of a word ("B-cell") are no option letters.
        """
        letter = letter_index(self._at(position))
        if letter is None or (position > 0 and self.words.is_joined[position - 1]):
            return None
        end = position + 1
        while self._at(end) in _DELIMITERS:
            end += 1
        text = end + 1 if self._at(end) in _OPENERS else end
        option = frozenset({letter})
        is_delimited = end > position + 1 or text > end or self._at(end) in {"", ",", ";", "!", "?", "\n"}
        if match := self._match_text(text):
            options, text_end = match
            if letter in options:
                while self._at(text_end) in _CLOSERS:
                    text_end += 1
                return Item(options=option, end=text_end, kind="letter_and_text")
            if is_delimited and not self._is_listed(end):
                return Item(options=options | option, end=text_end, kind="disagreement")
        if self.words.is_joined[position] or self._at(position + 1) == INNER_DOT:
            return None
        if self._at(position + 1) == "." and self._is_genus(position + 2):
            return None
        item = Item(options=option, end=end, kind="letter")
        if is_delimited or (may_be_subject and self._at(end) in _COPULAS and self.words.raw[position].isupper()):
            return item
        word = self._at(end)
        if self._starts_new_part(end) or word in _PREPOSITIONS or word >= "\u3040":
            return item
        return item if word in _SEPARATORS and self._goes_on(end) else None

    def _is_genus(self, position: int) -> bool:
        """Whether the word looks like a species after an abbreviated genus, as in "C. difficile"."""
        word = self._at(position)
        return word.isalpha() and len(word) > 2 and self.words.raw[position].islower() and word not in _PLAIN

    def _starts_clause(self, position: int) -> bool:
        return position == 0 or self._at(position - 1) in _SENTENCE_ENDS or self._at(position - 1) in _STARTERS

    def _clause_before(self, position: int) -> set[str]:
        """Up to four words before a cue, within its clause: those of "I do not think" in "I do not think the answer is B"."""
        before = reversed(self.words.folded[max(0, position - 4) : position])
        return set(takewhile(lambda word: word not in _CLAUSE_ENDS and word not in _BUT, before))

    def _at(self, position: int) -> str:
        """The folded word at a position, "" after the end."""
        return self.words.folded[position] if position < len(self.words.folded) else ""
