"""Answers that evaluation reads and no reward pays for: an untrained model answers in sentences, and must not lose to the reader.

================== ============================================================ =======================================
kind               the text                                                     example
================== ============================================================ =======================================
sentence           shows exactly one option, and leaves nothing open            "This X-ray shows a pleural effusion."
sentence_letter    the same, with the option's letter in brackets               "A pleural effusion is present (B)"
repeated_letter    is one capital letter several times                          "B B"
exact_text         is an option to the letter, where another differs in case    "T1" of ("T1", "t1")
================== ============================================================ =======================================

A table says how many answers were read so, because a gain over them may come from the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from osler.grading.choice import Reading
from osler.grading.option_index import OptionIndex, letter_index
from osler.grading.stance import CLAUSE_ENDS, COPULAS, VIEWS, Stance, read_stance
from osler.text import ARTICLES, Words, fold_answer, split_words

KINDS: Final = frozenset({"sentence", "sentence_letter", "repeated_letter", "exact_text"})

_OPEN: Final = frozenset(
    {"cannot", "unable", "unclear", "uncertain", "unsure", "sure", "difficult", "impossible", "insufficient", "depends", "if", "whether"}
    | {"may", "might", "could", "would", "possible", "possibly", "perhaps", "maybe", "either", "or", "versus", "vs", "unlike", "except"}
    | {"question", "options", "choices", "sorry", "?", "not", "no", "never", "neither", "nor", "without", "exclude", "excluded", "absent"}
    | {"least", "hardly", "none", "opposite", "false", "wrong", "incorrect", "inconsistent", "against", "ruling", "ruled", "rule"}
    | {"resolved", "treated", "previous", "previously", "suspected", "suspects", "suggested", "screened", "history", "earlier"}
    | set("不没無无非未否吗嗎或")
)
"""Words of texts that leave an answer open or deny something; such a text commits itself to nothing here."""
_SHOWS: Final = frozenset(
    {"show", "shows", "showing", "demonstrates", "depicts", "reveals", "represents", "displays", "contains", "indicates", "is"}
    | set("是示见見为為")
)
"""Words before an option that say that it is there, or that this is it."""
_SUBJECTS: Final = VIEWS | frozenset(
    {"this", "it", "which", "that", "diagnosis", "finding", "modality", "technique", "organ", "plane", "condition", "abnormality", "lesion"}
    | {"ray", "ct", "mri", "radiograph", "ultrasound", "photograph"}
)
"""What "is" may say it of: "the heart is normal" says nothing of the image."""
_FILLERS: Final = ARTICLES | frozenset(
    {"clear", "clearly", "large", "small", "mild", "severe", "acute", "left", "right", "both", "bilateral", "typical", "probable"}
    | {"most", "likely", "definitely", "evidence", "of"}
)
"""Words that may stand between the verb and the option."""
_SEEN: Final = frozenset({"present", "seen", "visible", "shown", "evident", "identified", "noted", "demonstrated", "depicted"})
_BEHIND: Final = (
    CLAUSE_ENDS | COPULAS | VIEWS | {"", "(", ")", "on", "in", "at", "with", "and", "of", "which", "that", "as", "here", "due", "scan"}
)
"""Words that may stand behind an option in a sentence; any other makes a longer phrase of it."""
_MAX_WORDS: Final = 120
_MAX_REPEATS: Final = 8
_MAX_FILLERS: Final = 4


def is_lenient(rule: str) -> bool:
    """Whether a verdict's rule, such as "statement.sentence", is one of these."""
    return rule.rpartition(".")[2] in KINDS


def read_leniently(text: str, choices: Sequence[str], options: OptionIndex) -> Reading | None:
    """The option that a text gives by one of these kinds, or a disagreement of letter and sentence; None for any other text."""
    same = [option for option, choice in enumerate(choices) if choice.strip() == text.strip().rstrip(".")]
    if len(same) == 1:
        return Reading(option=same[0], kind="exact_text")
    words = split_words(text)
    spoken = [word for word in words.raw if word[0].isalnum()]
    letter = letter_index(spoken[0].lower()) if spoken and spoken[0].isupper() else None
    if 1 < len(spoken) <= _MAX_REPEATS and len(set(spoken)) == 1 and letter in range(len(choices)) and not any(words.is_joined):
        return Reading(option=letter, kind="repeated_letter")
    return _read_sentence(words, choices, options)


def _read_sentence(words: Words, choices: Sequence[str], options: OptionIndex) -> Reading | None:
    folded, is_joined = words.folded, words.is_joined
    if len(folded) > _MAX_WORDS or any(fold_answer(choice) in (("yes",), ("no",)) for choice in choices):
        return None
    named: set[int] = set()
    bare = list(folded)  # without the words of options, which may hold a "not" or an "or" of their own
    position, is_shown = 0, False
    while position < len(folded):
        match = options.match(folded, position)
        if match is None or is_joined[match[1] - 1] or (position > 0 and is_joined[position - 1]):  # "CT-guided"
            position += 1
            continue
        found, end = match
        if end == position + 1 and folded[position] >= "\u3040":  # one Chinese character may be part of a word
            return None
        if len(found) > 1 or (end < len(folded) and folded[end] not in _BEHIND):
            return None
        if read_stance(folded, position, end, through_prepositions=True) is not Stance.AFFIRMED:
            return None
        named |= found
        bare[position:end] = [""] * (end - position)
        is_shown = is_shown or _is_shown(folded, position, end)
        position = end
    if len(named) != 1 or not is_shown or not _OPEN.isdisjoint(bare):
        return None
    (option,) = named
    in_brackets = {letter_index(folded[at + 1]) for at in range(len(folded) - 2) if (folded[at], folded[at + 2]) == ("(", ")")} - {None}
    if not in_brackets:
        return Reading(option=option, kind="sentence")
    return Reading(option=option, kind="sentence_letter") if in_brackets == {option} else Reading(option=None, kind="disagreement")


def _is_shown(folded: Sequence[str], begin: int, end: int) -> bool:
    """Whether the clause says that the option at these words is there: "the image shows a ..", "this is a ..", ".. is present"."""
    after = list(folded[end : end + 3])
    if after[:1] and after[0] in COPULAS and any(word in _SEEN for word in after[1:]):
        return True
    at = begin - 1
    while at >= 0 and begin - at <= _MAX_FILLERS and folded[at] in _FILLERS:
        at -= 1
    if at < 0:
        return False
    before = folded[max(0, at - 2) : at]
    if folded[at] == "is":
        return bool(before) and before[-1] in _SUBJECTS
    if folded[at] == "see":
        return before[-1:] in (["i"], ["we"]) or before[-2:] in (["i", "can"], ["we", "can"])
    return folded[at] in _SHOWS
