"""Answers that evaluation reads and no reward pays for: an untrained model answers in sentences, and must not lose to the reader.

================== ============================================================ =======================================
kind               the text                                                     example
================== ============================================================ =======================================
sentence           names exactly one option, and leaves nothing open            "This X-ray shows a pleural effusion."
sentence_letter    the same, with the option's letter in brackets               "A pleural effusion is present (B)"
repeated_letter    is one letter several times                                  "B B"
exact_text         is an option to the letter, where another differs in case    "T1" of ("T1", "t1")
================== ============================================================ =======================================

A table says how many answers were read so, because a gain over them may come from the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from osler.grading.choice import Reading
from osler.grading.option_index import OptionIndex, letter_index
from osler.grading.stance import CLAUSE_ENDS, COPULAS, PREPOSITIONS, VIEWS, Stance, read_stance
from osler.text import fold_answer, split_words

KINDS: Final = frozenset({"sentence", "sentence_letter", "repeated_letter", "exact_text"})

_OPEN: Final = frozenset(
    {"cannot", "unable", "unclear", "uncertain", "unsure", "sure", "difficult", "impossible", "insufficient", "depends", "if", "whether"}
    | {"may", "might", "could", "would", "possible", "possibly", "perhaps", "maybe", "either", "or", "versus", "vs", "unlike", "except"}
    | {"question", "options", "choices", "sorry", "?", "not", "no", "never", "neither", "nor", "without", "exclude", "excluded", "absent"}
    | set("不没無无非未否吗嗎或")
)
"""Words of texts that leave an answer open or deny something; such a text commits itself to nothing here."""
_VERBS: Final = COPULAS | frozenset(
    {"show", "shows", "showing", "demonstrates", "depicts", "reveals", "suggests", "indicates", "represents", "displays", "contains"}
    | {"appears", "has", "have", "see", "seems", "corresponds", "consistent", "compatible", "used", "taken", "acquired", "diagnosis"}
    | set("是示见見为為")
)
"""A text without any of these is a phrase such as "CT perfusion", which is more than the option CT."""
_BEHIND: Final = (
    CLAUSE_ENDS
    | _VERBS
    | PREPOSITIONS
    | VIEWS
    | {"", "(", ")", "and", "of", "which", "that", "as", "here", "due", "since", "scan", "study"}
)
"""Words that may stand behind an option in a sentence; any other makes a longer phrase of it."""
_MAX_WORDS: Final = 120
_MAX_REPEATS: Final = 8


def is_lenient(rule: str) -> bool:
    """Whether a verdict's rule, such as "statement.sentence", is one of these."""
    return rule.rpartition(".")[2] in KINDS


def read_leniently(text: str, choices: Sequence[str], options: OptionIndex) -> Reading | None:
    """The option that a text gives by one of these kinds, or a disagreement of letter and sentence; None for any other text."""
    same = [option for option, choice in enumerate(choices) if choice.strip() == text.strip().rstrip(".")]
    if len(same) == 1:
        return Reading(option=same[0], kind="exact_text")
    words = split_words(text)
    letters = [word for word in words.folded if word[0].isalnum()]
    if 1 < len(letters) <= _MAX_REPEATS and len(set(letters)) == 1 and letter_index(letters[0]) in range(len(choices)):
        return Reading(option=letter_index(letters[0]), kind="repeated_letter")
    return _read_sentence(words.folded, words.is_joined, choices, options)


def _read_sentence(folded: list[str], is_joined: list[bool], choices: Sequence[str], options: OptionIndex) -> Reading | None:
    if len(folded) > _MAX_WORDS or any(fold_answer(choice) in (("yes",), ("no",)) for choice in choices):
        return None
    named: set[int] = set()
    bare = list(folded)  # without the words of options, which may hold a "not" or an "or" of their own
    position = 0
    while position < len(folded):
        match = options.match(folded, position)
        if match is None or is_joined[match[1] - 1] or (position > 0 and is_joined[position - 1]):  # "CT-guided"
            position += 1
            continue
        found, end = match
        if end == position + 1 and folded[position] >= "\u3040":  # one Chinese character may be part of a word
            return None
        if end < len(folded) and folded[end] not in _BEHIND:
            return None
        if len(found) > 1 or read_stance(folded, position, end, through_prepositions=True) is not Stance.AFFIRMED:
            return None
        named |= found
        bare[position:end] = [""] * (end - position)
        position = end
    if len(named) != 1 or not _OPEN.isdisjoint(bare) or _VERBS.isdisjoint(bare):
        return None
    (option,) = named
    letters = {folded[at + 1] for at in range(len(folded) - 2) if folded[at] == "(" and folded[at + 2] == ")"} & set(
        "abcdefghijklmnopqrstuvwxyz"
    )
    if not letters:
        return Reading(option=option, kind="sentence")
    return Reading(option=option, kind="sentence_letter") if letters == {chr(97 + option)} else Reading(option=None, kind="disagreement")
