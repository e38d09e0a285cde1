"""Which options a text commits to. A small grammar over words, read left to right; nothing is searched for inside running prose.

item      an option's text, a letter, or both: "MRI" | "(B)" | "Option B" | "B) MRI" | "MRI (B)"
sequence  items with separators and negations: "A or B" | "A, not B" | "not A but B"
line      a line that is a sequence; the first line may run on: "B. The ring is bright."
claim     a sequence behind a cue: "the answer is B" | "answer: B" | "\\boxed{B}" | "答案是B" | "I choose B"
judgement an item and what is said of it: "B is correct" | "A is wrong"
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

from osler.grading.words import ARTICLES, INNER_DOT, MAX_LENGTH, OptionIndex, Words, letter_index, split_words

MAX_ITEMS: Final = 32
MAX_LINKS: Final = 8

_OPENERS: Final = frozenset("([{")
_CLOSERS: Final = frozenset(")]}")
_DELIMITERS: Final = frozenset({")", "]", "}", ".", ":", "-", "=", INNER_DOT})
_SENTENCE_ENDS: Final = frozenset(".!?;\n")
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
    """One mention of an option that the grammar accepts."""

    options: frozenset[int]  # one option, or several that share a text; {25} for Z even where there are four choices
    end: int  # position behind it
    kind: str  # "letter", "text", "letter_and_text", or "disagreement" where letter and text name different options


@dataclass(slots=True, kw_only=True)
class Sequence:
    """Items that stand together, and which of them are denied."""

    claimed: list[Item] = field(default_factory=list)
    denied: list[Item] = field(default_factory=list)
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a text commits to."""

    option: int | None  # None unless `kind` names how exactly one option was read
    kind: str  # "letter", "text", "letter_and_text"; "several", "disagreement", "duplicate_text"; "negated", "not_an_option", "empty"


def read_choice(text: str, options: OptionIndex) -> Reading:
    """The one option that a text commits to, or why there is none."""
    text = text.strip()
    letter = letter_index(text.lower())
    if letter is not None and letter < options.num_choices:  # the answer that was asked for, hence a short way
        return Reading(option=letter, kind="letter")
    words = split_words(_unwrap_json(text))
    if not words.folded:
        return Reading(option=None, kind="empty")
    if words.folded == ["n", "/", "a"]:
        return Reading(option=None, kind="not_an_option")
    reader = _Reader(words=words, options=options)
    return _settle(reader.read_claims(), reader.read_lines())


def _unwrap_json(text: str) -> str:
    """The value of "answer" where the text is one JSON object, which may stand in a code fence; else the text."""
    body = text.removeprefix("```json").strip("` \n")
    if body[:1] != "{" or len(body) > MAX_LENGTH:
        return text
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return text
    values = [value for key, value in fields.items() if key.lower() in {"answer", "final_answer", "choice"} and isinstance(value, str)]
    return values[0] if len(values) == 1 else text


def _settle(claims: list[Sequence], lines: list[Sequence]) -> Reading:
    """One option from everything that was read: claims beat a list of lines, and whatever remains must agree."""
    denied = {option for sequence in (*claims, *lines) for item in sequence.denied for option in item.options}
    said = [[item for sequence in sequences for item in sequence.claimed] for sequences in (claims, lines)]
    left = [[item for item in items if not item.options <= denied] for items in said]
    is_list = len(frozenset[int]().union(*(item.options for item in left[1]))) > 1
    items = left[0] if left[0] and is_list else left[0] + left[1]
    if not items:
        return Reading(option=None, kind="negated" if denied else "not_an_option")
    if any(item.kind == "disagreement" for item in left[0] + left[1]):
        return Reading(option=None, kind="disagreement")
    common = frozenset.intersection(*(item.options for item in items))
    if len(common) == 1:
        return Reading(option=next(iter(common)), kind=items[0].kind)
    return Reading(option=None, kind="duplicate_text" if common else "several")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """The grammar's rules as methods; each takes a position and looks a bounded number of words ahead."""

    words: Words
    options: OptionIndex

    def read_lines(self) -> list[Sequence]:
        """Sequences that fill a line; on the first line prose may follow."""
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
                    continue  # "A? No, .." asks
                self._add_listed_letters(sequence)
            elif self._at(end) not in {"", "\n"}:
                continue
            sequences.append(sequence)
        return sequences

    def _add_listed_letters(self, sequence: Sequence) -> None:
        """An option list on one line, "A) CT scan B) MRI scan", claims every letter in it."""
        folded, raw = self.words.folded, self.words.raw
        position = sequence.end
        while self._at(position) not in {"", "\n"}:
            letter = letter_index(folded[position])
            if letter is not None and letter < self.options.num_choices and raw[position].isupper() and self._at(position + 1) == ")":
                sequence.claimed.append(Item(options=frozenset({letter}), end=position + 2, kind="letter"))
            position += 1

    def read_claims(self) -> list[Sequence]:
        """Sequences behind a cue, and judgements."""
        sequences = []
        for position in range(len(self.words.folded)):
            if (begin := self._behind_cue(position)) is not None and (sequence := self._read_sequence(begin)):
                if self._at(sequence.end) == "?":
                    continue
                before = self._clause_before(position)
                if before & {"if", "whether", "unless"}:
                    continue
                if before & _NOT:
                    sequence.claimed, sequence.denied = [], sequence.claimed + sequence.denied
                sequences.append(sequence)
            if self._starts_clause(position) and (judgement := self._read_judgement(position)):
                sequences.append(judgement)
        return sequences

    def _behind_cue(self, position: int) -> int | None:
        """The position behind a cue and its links, or None: "[the answer] to this question is [B]"."""
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
            if not (word in _LINKS or (word == "\n" and self._at(begin - 1) == ":")) or self.options.match(self.words.folded, begin):
                break
            begin += 1
        return begin

    def _read_judgement(self, position: int) -> Sequence | None:
        """An option that is called right is claimed, one that is called wrong is denied; anything else said of it is prose."""
        item = self._read_item(position, may_be_subject=True)
        if item is None or self._at(item.end) not in _COPULAS:
            return None
        said = []
        for word in self.words.folded[item.end : item.end + 7]:
            if word in _SENTENCE_ENDS or word == ",":
                break
            said.append(word)
        if not _WRONG.isdisjoint(said):
            return Sequence(denied=[item], end=item.end)
        return None if _RIGHT.isdisjoint(said) else Sequence(claimed=[item], end=item.end)

    def _read_sequence(self, position: int) -> Sequence | None:
        sequence = Sequence(end=position)
        is_denied = False
        for _ in range(MAX_ITEMS):
            while self._at(position) in _BOTH:
                position += 1
            while negation := self._negation_length(position):
                is_denied = True
                position += negation
            if self._at(position) in _BUT:
                is_denied = False
                position += 1
                continue
            if (item := self._read_item(position)) is None:
                break
            (sequence.denied if is_denied else sequence.claimed).append(item)
            sequence.end = position = item.end
            while self._at(position) in _SEPARATORS or (self._at(position) == "." and self._is_denial(position + 1)):
                position += 1
            if position == item.end and not (self._is_denial(position) or self._at(position) in _BUT or self._is_listed(position)):
                break
        return sequence if sequence.claimed or sequence.denied else None

    def _is_denial(self, position: int) -> bool:
        return self._negation_length(position) > 0

    def _is_listed(self, position: int) -> bool:
        """Whether a list goes on without a comma: "A) CT [B) MRI]"."""
        return letter_index(self._at(position)) is not None and self._at(position + 1) in {")", "]"}

    def _negation_length(self, position: int) -> int:
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
        """A whole option text, perhaps with its letter behind it: "MRI", "MRI (B)"."""
        if (found := self._match_text(position)) is None:
            return None
        options, end = found
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
        """An option text here or behind an article; a capital A is never taken for an article."""
        found = self.options.match(self.words.folded, position)
        if found is None and self._at(position) in ARTICLES and self.words.raw[position] != "A":
            found = self.options.match(self.words.folded, position + 1)
        return found

    def _ends_text(self, position: int) -> bool:
        """Whether an option text that ends here is whole, and not the beginning of something longer."""
        word = self._at(position)
        if self.words.is_joined[position - 1]:
            return False
        if not word or word in _SENTENCE_ENDS or word in _BECAUSE or word in _BUT or self._is_denial(position) or self._is_listed(position):
            return True
        return word in _SEPARATORS and self._goes_on(position)

    def _goes_on(self, position: int) -> bool:
        """Whether another item, a negation, a reason or the end follows these separators."""
        while self._at(position) in _SEPARATORS:
            position += 1
        word = self._at(position)
        if not word or word in _BECAUSE or word in _BUT or self._is_denial(position) or self._match_text(position):
            return True
        return letter_index(word) is not None and self.words.raw[position].isupper() and not self.words.is_joined[position]

    def _read_letter(self, position: int, *, may_be_subject: bool) -> Item | None:
        """A letter that stands apart, perhaps with its option text: "B", "(B)", "B) MRI", "B because ..".

        An article ("a cyst"), a pronoun ("I see"), a genus ("C. difficile") and half a word ("B-cell") are not letters.
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
        if found := self._match_text(text):
            options, text_end = found
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
        follows = word in _BECAUSE or word in _PREPOSITIONS or word in _BUT or self._is_denial(end) or word >= "\u3040"
        return item if follows or (word in _SEPARATORS and self._goes_on(end)) else None

    def _is_genus(self, position: int) -> bool:
        """Whether a species' name follows an abbreviated genus, as in "C. difficile"."""
        word = self._at(position)
        return word.isalpha() and len(word) > 2 and self.words.raw[position].islower() and word not in _PLAIN

    def _starts_clause(self, position: int) -> bool:
        return position == 0 or self._at(position - 1) in _SENTENCE_ENDS or self._at(position - 1) in _STARTERS

    def _clause_before(self, position: int) -> set[str]:
        """Up to four words before a cue, within its clause: "I do not think [the answer]"."""
        before = set()
        for word in reversed(self.words.folded[max(0, position - 4) : position]):
            if word in _SENTENCE_ENDS or word == "," or word in _BUT:
                break
            before.add(word)
        return before

    def _at(self, position: int) -> str:
        """The folded word at a position, "" beyond the end."""
        return self.words.folded[position] if position < len(self.words.folded) else ""
