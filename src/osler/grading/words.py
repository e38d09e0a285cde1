"""Text as a list of words that compare equal when a reader would call them equal, and option texts found among them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.grading.parse import VISIBLE

MAX_LENGTH: Final = 4_000
"""Characters that are read, from the end: a conclusion comes last, and hostile input must not cost more than this."""

ARTICLES: Final = frozenset({"a", "an", "the"})
END_MARKS: Final = frozenset(".,;:!?\n")

# Chinese and Japanese write no spaces, so there every character is a word of its own.
_IDEOGRAPH: Final = "\u3040-\u30ff\u3400-\u9fff"
_WORD: Final = re.compile(rf"[^\W_{_IDEOGRAPH}]+|\n|\S")
_LATEX: Final = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|left|right)\b|\\(?=[^A-Za-z])")
_NOT: Final = re.compile(r"n['’]t\b")
_SAME: Final = MappingProxyType(
    {
        **dict.fromkeys(map(ord, "‐‑‒–—―−"), "-"),
        **dict.fromkeys(map(ord, "’‘‛ʼ´"), "'"),
        **dict.fromkeys(map(ord, "“”„‟«»‹›「」『』【】《》"), '"'),
        ord("。"): ".",
        ord("、"): ",",
        ord("؟"): "?",
    }
)
_IGNORED: Final = frozenset("\"'`\\$_#~|")
INNER_DOT: Final = "∙"
"""A full stop between two characters of a word, as in "1.5" or "E.coli": it ends no sentence."""
MINUS: Final = "−"
"""The sign of a number, which unlike a hyphen is part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A text's words; the three lists run in parallel."""

    folded: list[str]  # ["b", ")", "x", "ray"]
    raw: list[str]  # ["B", ")", "X", "ray"]
    is_joined: list[bool]  # a hyphen or an apostrophe ties it to the next word: [False, False, True, False]


def split_words(text: str) -> Words:
    """Fold a text: NFKC, case, markdown, LaTeX, quotation marks and blanks are gone, and hyphens divide words."""
    if len(text) > MAX_LENGTH:
        text = f"^ {text[-MAX_LENGTH:]}"  # the mark keeps the place of the cut from being taken for a beginning
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(VISIBLE)).translate(_SAME)
    if "\\" in text:
        text = _LATEX.sub(" ", text)
    if "'" in text:
        text = _NOT.sub(" not", text)
    text = text.replace("**", "").replace("__", "")
    words = Words(folded=[], raw=[], is_joined=[])
    has_open_star = False
    for match in _WORD.finditer(text):
        word = match[0]
        if word[0].isalnum():
            _append(words, word.casefold(), word)
            continue
        begin, end = match.span()
        after_word = begin > 0 and _is_word(text[begin - 1])
        before_word = end < len(text) and _is_word(text[end])
        if word == "*":  # emphasis, but not the star of "T2*"
            if after_word and not has_open_star:
                _append(words, word, word)
            has_open_star = not after_word and not has_open_star
        elif word in "-'" and after_word and before_word:
            if words.is_joined:
                words.is_joined[-1] = True
        elif word == "-" and not after_word and before_word and text[end].isdigit():
            _append(words, MINUS, word)
        elif word == "." and after_word and before_word:
            _append(words, INNER_DOT, word)
        elif word not in _IGNORED and not (word == "\n" and words.raw[-1:] == ["\n"]):
            _append(words, word, word)
    return words


def _append(words: Words, folded: str, raw: str) -> None:
    words.folded.append(folded)
    words.raw.append(raw)
    words.is_joined.append(False)


def _is_word(character: str) -> bool:
    return character.isalnum() and not "\u3040" <= character <= "\u9fff"


@lru_cache(maxsize=4096)
def fold_text(text: str) -> tuple[str, ...]:
    """The words of a short text without end marks and line breaks: "The X-ray." -> ("the", "x", "ray"). Marks alone stay as they are."""
    folded = [word for word in split_words(text).folded if word != "\n"]
    return _strip_marks(folded) or tuple(folded)


def _strip_marks(folded: list[str]) -> tuple[str, ...]:
    begin, end = 0, len(folded)
    while begin < end and folded[begin] in END_MARKS:
        begin += 1
    while end > begin and folded[end - 1] in END_MARKS:
        end -= 1
    return tuple(folded[begin:end])


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionIndex:
    """A question's option texts, ready to be found at a place in a text."""

    num_choices: int
    by_first_word: dict[str, list[tuple[tuple[str, ...], frozenset[int]]]]  # longest text first; two options may share a text

    def match(self, folded: list[str], position: int) -> tuple[frozenset[int], int] | None:
        """(options, position behind the text) of the longest option text that begins here."""
        if position >= len(folded):
            return None
        for text, options in self.by_first_word.get(folded[position], ()):
            if tuple(folded[position : position + len(text)]) == text:
                return options, position + len(text)
        return None


@lru_cache(maxsize=4096)
def index_options(choices: tuple[str, ...]) -> OptionIndex:
    """Index the option texts, also without a leading article where no other option claims that wording.

    A text that is a single letter of this question ("A" among blood groups) is left out: the prompt asks for a letter, so such an answer
    is the letter.
    """
    options_of: dict[tuple[str, ...], set[int]] = {}
    for option, choice in enumerate(choices):
        options_of.setdefault(fold_text(choice), set()).add(option)
    bare: dict[tuple[str, ...], set[int]] = {}
    for option, choice in enumerate(choices):
        text = fold_text(choice)
        if len(text) > 1 and text[0] in ARTICLES and text[1:] not in options_of:
            bare.setdefault(text[1:], set()).add(option)
    by_first_word: dict[str, list[tuple[tuple[str, ...], frozenset[int]]]] = {}
    for text, options in (options_of | bare).items():
        if text and not (len(text) == 1 and letter_index(text[0]) in range(len(choices))):
            by_first_word.setdefault(text[0], []).append((text, frozenset(options)))
    for texts in by_first_word.values():
        texts.sort(key=lambda entry: -len(entry[0]))
    return OptionIndex(num_choices=len(choices), by_first_word=by_first_word)


def letter_index(folded: str) -> int | None:
    """0 for "a" to 25 for "z", None for any other word."""
    return ord(folded) - 97 if len(folded) == 1 and "a" <= folded <= "z" else None
