"""From a completion to a verdict: the only grader.

The rules, in this order; `Verdict.rule` names the one that applied, e.g. "answer_tag.letter":

- A letter alone is that option, even where an option's text is a letter too: the prompt asks for letters.
- The whole text of an option is that option, whatever it begins with ("Both lungs", "Not seen", "N/A"); a letter inside the text does not
  count ("Hepatitis C"). Two options with the same text need the letter.
- A letter and the text of another option ("B) CT" where B is MRI) disagree: AMBIGUOUS.
- Two different options are AMBIGUOUS, negated options aside ("A, not B" leaves A). A negated option is never the answer.
- A letter beyond the choices is a wrong answer: INCORRECT.
- More than two options in different <answer> blocks are AMBIGUOUS; of two the last counts.
- What is none of these may be read by the rules of `lenient`, which no reward pays for.
- Anything else is NO_ANSWER: no text, no option, an option inside prose, reasoning that was cut off, an answer only inside <think>.
- A last <answer> that is never closed counts if it contains a letter, because a sampler may stop at "</answer>". Option text there may be
  cut off ("CT" of "CT angiography") and is NO_ANSWER.

An open answer is compared with the reference by the rules of `comparison`, whose name is the last part of the rule:
"answer_tag.text.synonym". What they cannot decide is INCORRECT with the rule "..undecided", so it never raises an accuracy, it keeps its
answer, and files of records need no further outcome; tables count it apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from osler.errors import DataError
from osler.grading.choice import read_choice
from osler.grading.comparison import UNDECIDED, compare
from osler.grading.lenient import read_leniently
from osler.grading.open_answer import read_open_answer
from osler.grading.option_index import index_options
from osler.grading.parse import Parsed, Source, parse
from osler.types import LETTERS, Outcome, Verdict

MAX_ANSWERS: Final = 2
"""Options in different <answer> blocks of which the last counts: one may be taken back, more are a list of guesses."""

_AMBIGUOUS_KINDS: Final = frozenset({"several", "disagreement", "duplicate_text"})
_UNREAD: Final = frozenset({"not_an_option", "duplicate_text"})


def grade(text: str, *, choices: Sequence[str], target: str, strategy: str, is_lenient: bool = True) -> Verdict:
    """The verdict on one completion. `target` is a letter, or the reference text where `choices` is empty.

    Evaluation also reads what `lenient` lists; rewards do not (`is_lenient=False`). Raises ConfigError for an unknown strategy, and
    DataError for a target that is not the letter of a choice. No completion raises.
    """
    parsed = parse(text, strategy=strategy)
    if choices and (target not in LETTERS[: len(choices)] or len(target) != 1):
        raise DataError(f"target {target!r} names none of the {len(choices)} choices: use a letter from A to {LETTERS[len(choices) - 1]}")
    if parsed.content is None:
        return _verdict(parsed, Outcome.NO_ANSWER, None)
    if not choices:
        return _grade_open(parsed, parsed.content, target)
    options = index_options(tuple(choices))
    if len(parsed.answers) > MAX_ANSWERS and len({read_choice(answer, options).option for answer in parsed.answers} - {None}) > MAX_ANSWERS:
        return _verdict(parsed, Outcome.AMBIGUOUS, None, "many_answers")
    reading = read_choice(parsed.content, options)
    if is_lenient and reading.kind in _UNREAD and parsed.source is not Source.OPEN_ANSWER_TAG:
        reading = read_leniently(parsed.content, choices, options) or reading
    if reading.kind in _AMBIGUOUS_KINDS:
        return _verdict(parsed, Outcome.AMBIGUOUS, None, reading.kind)
    if reading.option is None:
        return _verdict(parsed, Outcome.NO_ANSWER, None, reading.kind)
    if parsed.source is Source.OPEN_ANSWER_TAG and reading.kind == "text":
        return _verdict(parsed, Outcome.NO_ANSWER, None, "cut_off_text")
    answer = LETTERS[reading.option]
    if reading.option >= len(choices):
        return _verdict(parsed, Outcome.INCORRECT, answer, "letter_out_of_range")
    return _verdict(parsed, Outcome.CORRECT if answer == target else Outcome.INCORRECT, answer, reading.kind)


def _grade_open(parsed: Parsed, content: str, target: str) -> Verdict:
    if parsed.source is Source.OPEN_ANSWER_TAG:
        return _verdict(parsed, Outcome.NO_ANSWER, None, "cut_off_text")
    answer, kind = read_open_answer(content, is_tagged=parsed.source is Source.ANSWER_TAG)
    if answer is None:
        return _verdict(parsed, Outcome.AMBIGUOUS if kind == "several" else Outcome.NO_ANSWER, None, kind)
    comparison = compare(answer, target)
    return _verdict(parsed, Outcome.CORRECT if comparison.is_right else Outcome.INCORRECT, answer, f"{kind}.{comparison.rule}")


def is_undecided(rule: str) -> bool:
    """Whether a verdict's rule, such as "answer_tag.text.undecided", says that an open answer may be right and no rule decides it."""
    return rule.rpartition(".")[2] == UNDECIDED


def _verdict(parsed: Parsed, outcome: Outcome, answer: str | None, kind: str | None = None) -> Verdict:
    rule = f"{parsed.source}.{kind}" if kind else str(parsed.source)
    return Verdict(outcome=outcome, answer=answer, reasoning=parsed.reasoning, is_well_formed=parsed.is_well_formed, rule=rule)
