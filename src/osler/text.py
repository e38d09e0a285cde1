"""Rules by which two texts count as equal. Each caller imports the rule that it needs.

For a dataset's rows: `ignore_case_and_end` keeps signs apart ("T1+" is not "T1-"), `fold_words` makes them spaces, `fold_option` drops
them, `fold_label` keeps ASCII letters and digits only. For completions: `fold_phrase` for option texts, `fold_answer` for open answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 4_000
"""How many characters of a text are read, from its end: a conclusion comes last, and long input must stay cheap."""

ARTICLES: Final = frozenset({"a", "an", "the"})
INNER_DOT: Final = "∙"
"""Stands for a full stop between two characters of a word, as in "1.5" or "E.coli", which does not end a sentence."""
_MINUS: Final = "−"  # the sign of a number; a hyphen divides words, a sign is kept
_END_MARKS: Final = frozenset(".,;:!?\n")

_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")
_NOT_WORD_OR_SPACE: Final = re.compile(r"[^\w\s]|_")
_NOT_ASCII_ALPHANUMERIC: Final = re.compile(r"[^a-z0-9]")

# Chinese and Japanese write no spaces, so every character of these scripts is one word.
_IDEOGRAPH: Final = "\u3040-\u30ff\u3400-\u9fff"
_WORD: Final = re.compile(rf"[^\W_{_IDEOGRAPH}]+|\n|\S")
_LATEX: Final = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|left|right)\b|\\(?=[^A-Za-z])")
_CONTRACTED_NOT: Final = re.compile(r"n['’]t\b")
_IGNORED_MARKS: Final = frozenset("\"'`\\$_#~|")
_ASCII_MARKS: Final = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("’‘‛ʼ´", "'"),
        **dict.fromkeys("“”„‟«»‹›「」『』【】《》", '"'),
        **dict(zip("。、؟", ".,?", strict=True)),
    }
)
_LONGEST_MARK: Final = 16  # characters between two words that are not read: spaces aside, a LaTeX command or emphasis
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u3164\ufeff\uffa0\U000e0001\u180b-\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufff9-\ufffb\U000e0020-\U000e007f]"
)
# NFKC does this too, but it is not linear on long runs of combining marks.
_FULL_WIDTH: Final = str.maketrans("＜＞／", "<>/")
_YES_NO: Final = dict.fromkeys(("y", "yeah", "yep", "true", "是", "是的"), "yes") | dict.fromkeys(
    ("n", "nope", "false", "否", "不是"), "no"
)


def ignore_case_and_end(text: str) -> str:
    """Ignore case, the amount of whitespace and a final ".", "," or ";": "X-ray  (Frontal)." -> "x-ray (frontal)".

    Every other sign is kept, so "T1+" and "T1-" differ.
    """
    return " ".join(text.casefold().split()).rstrip(".,;")


def fold_words(text: str) -> str:
    """Ignore case and treat all signs as spaces; letters and digits of any script stay: "X-ray (frontal)." -> "x ray frontal"."""
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).strip()


def fold_option(text: str) -> str:
    """Ignore case, the amount of whitespace and all signs, which leave no space: "X-ray (frontal)." -> "xray frontal"."""
    return " ".join(_NOT_WORD_OR_SPACE.sub("", text.lower()).split())


def fold_label(text: str) -> str:
    """Ignore case and everything but ASCII letters and digits: "X-ray (frontal)." -> "xrayfrontal"."""
    return _NOT_ASCII_ALPHANUMERIC.sub("", text.lower())


@lru_cache(maxsize=1 << 15)
def fold_phrase(text: str) -> tuple[str, ...]:
    """Ignore what `split_words` ignores, line breaks, and punctuation at both ends: "The X-ray." -> ("the", "x", "ray").

    A text of punctuation only is kept: "?" -> ("?",).
    """
    return trim_phrase(split_words(text).folded)


def trim_phrase(words: Sequence[str]) -> tuple[str, ...]:
    """Folded words without line breaks and without punctuation at both ends, as `fold_phrase` gives them."""
    folded = [word for word in words if word != "\n"]
    begin, end = 0, len(folded)
    while begin < end and folded[begin] in _END_MARKS:
        begin += 1
    while end > begin and folded[end - 1] in _END_MARKS:
        end -= 1
    return tuple(folded[begin:end] or folded)


def fold_answer(text: str) -> tuple[str, ...]:
    """Ignore what `fold_phrase` ignores, "the" anywhere, a leading article, and the wording of yes and no: "True." -> ("yes",).

    An "a" inside the text is kept, because it can be a name: "vitamin A deficiency".
    """
    words = [word for word in fold_phrase(text) if word != "the"]
    while len(words) > 1 and words[0] in ARTICLES:
        words.pop(0)
    yes_or_no = _YES_NO.get("".join(words))
    return (yes_or_no,) if yes_or_no else tuple(words)


def drop_invisible(text: str) -> str:
    """`text` without characters of zero width, such as U+200B, and with full-width <, > and / in ASCII."""
    return text if text.isascii() else _INVISIBLE.sub("", text).translate(_FULL_WIDTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words of a text as three parallel lists. Example: "B) X-ray"."""

    folded: list[str]  # ["b", ")", "x", "ray"]
    raw: list[str]  # ["B", ")", "X", "ray"]
    is_joined: list[bool]  # whether a hyphen or an apostrophe joins the word to the next one: [False, False, True, False]


def split_words(text: str) -> Words:
    """The words and signs of the last MAX_LENGTH characters, with line breaks as words.

    `folded` ignores case, NFKC variants, markdown, LaTeX commands, quotation marks and spaces. Hyphens divide words.
    """
    if len(text) > MAX_LENGTH:
        text = f"^ {text[-MAX_LENGTH:]}"  # so that the cut is not read as the beginning of a line
    if not text.isascii():
        text = unicodedata.normalize("NFKC", drop_invisible(text)).translate(_ASCII_MARKS)
    if "\\" in text:
        text = _LATEX.sub(" ", text)
    if "'" in text:
        text = _CONTRACTED_NOT.sub(" not", text)
    text = text.replace("**", "").replace("__", "")
    words = Words(folded=[], raw=[], is_joined=[])
    has_open_star = False
    for match in _WORD.finditer(text):
        raw = folded = match[0]
        if raw[0].isalnum():
            folded = raw.casefold()
        else:
            begin, end = match.span()
            after_word = begin > 0 and _is_word_character(text[begin - 1])
            before_word = end < len(text) and _is_word_character(text[end])
            if raw == "*":  # emphasis, except for the star of "T2*"
                is_emphasis = has_open_star or not after_word
                has_open_star = not after_word and not has_open_star
                if is_emphasis:
                    continue
            elif raw in "-'" and after_word and before_word:
                if words.is_joined:
                    words.is_joined[-1] = True
                continue
            elif raw == "-" and not after_word and before_word and text[end].isdigit():
                folded = _MINUS
            elif raw == "." and after_word and before_word:
                folded = INNER_DOT
            elif raw in _IGNORED_MARKS or (raw == "\n" and words.raw[-1:] == ["\n"]):
                continue
        words.folded.append(folded)
        words.raw.append(raw)
        words.is_joined.append(False)
    return words


def locate_words(text: str, words: Words) -> list[tuple[int, int]]:
    """Where each of the words stands in the text that was split: (begin, end), in order. A word that has no place of its own, such as the
    "not" of "isn't", has an empty span.
    """
    cursor = begin = max(0, len(text) - MAX_LENGTH)
    slack, spans = 0, []
    for word in words.raw:
        while begin < len(text) and text[begin].isspace() and word != "\n":
            begin += 1
        at = text.find(word, cursor, begin + slack + _LONGEST_MARK + len(word))
        if at < 0:
            slack += 2 * len(word)
            spans.append((cursor, cursor))
        else:
            cursor = begin = at + len(word)
            slack = 0
            spans.append((at, cursor))
    return spans


def _is_word_character(character: str) -> bool:
    """Whether a character belongs to a word of several characters: a letter or digit, but no ideograph."""
    return character.isalnum() and not "\u3040" <= character <= "\u9fff"
