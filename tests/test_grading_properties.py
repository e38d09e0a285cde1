"""Grading: properties that hold for any text, and the cost of hostile text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_counts import count_lines

from osler.facts import Fact, Facts, Kind
from osler.grading import REWARDS, grade
from osler.prompts import STRATEGIES
from osler.types import LETTERS, Outcome

MODALITIES = ("CT", "MRI", "X-ray", "Ultrasound")
C, N, A = Outcome.CORRECT, Outcome.NO_ANSWER, Outcome.AMBIGUOUS

# Pieces that the grammar knows are far likelier to confuse it than random characters are.
PIECES = (
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "A",
        "B",
        "C",
        "E",
        "a",
        "I",
        "(",
        ")",
        ".",
        ",",
        "?",
        ":",
        "\n",
        " ",
        "-",
        "*",
        "**",
        "{",
    ),
    *(
        "}",
        "\\boxed{",
        '"',
        "not ",
        " or ",
        " and ",
        "but ",
        "the answer is ",
        "is ",
        "correct ",
        "because ",
        "MRI",
        "CT",
        "X-ray",
        "option ",
        "答案是",
        "是",
    ),
    *("neither ", "nor ", "rather than ", "if ", "\u200b", "Ｂ", "é", "<|im_end|>", "它", '{"answer": ', "1.5", "'s", "'"),
)
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
FACTS = Facts(facts=(Fact(kind=Kind.MODALITY, value="ct"),), closed=(Kind.MODALITY,))
BUILT_IN = tuple(REWARDS)  # other tests register more
OTHER_COLUMNS = {"sample_id": ["1"], "facts": [FACTS], "terms": [()], "question_type": [None], "altered_answers": [None]}
option_texts = st.one_of(st.sampled_from((*PIECES, "", "Hepatitis C", "A cyst", "cyst")), st.text(max_size=8))


@settings(max_examples=400, deadline=None)
@given(text=texts, choices=st.lists(option_texts, max_size=10).map(tuple), strategy=st.sampled_from(tuple(STRATEGIES)))
def test_no_text_raises_and_grading_is_deterministic(text: str, choices: tuple[str, ...], strategy: str) -> None:
    target = "A" if choices else "spleen"
    verdict = grade(text, choices=choices, target=target, strategy=strategy)
    assert verdict == grade(text, choices=choices, target=target, strategy=strategy)
    assert (verdict.answer is None) == (verdict.outcome in (N, A))
    if choices and verdict.answer is not None and verdict.answer in LETTERS[: len(choices)]:
        assert grade(text, choices=choices, target=verdict.answer, strategy=strategy).outcome is C
    for name in BUILT_IN:
        columns = {"choices": [choices], "target": [target], "strategy": [strategy], **OTHER_COLUMNS}
        (reward,) = REWARDS[name](["?"], [text], **columns)
        low = -1 if name == "statements" else 0
        assert low <= reward <= 1 if name in ("statements", "open_answer") else reward in {0.0, 0.5, 1.0}


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(("<think>", "</think>", "<answer>", "</answer>", " ", "\n", "\u200b", "\u3000", "<|im_end|>")), max_size=12
    ).map("".join),
    choices=st.lists(option_texts, max_size=5).map(tuple),
)
def test_blank_and_tags_only_are_never_correct(text: str, choices: tuple[str, ...]) -> None:
    for strategy, target in itertools.product(STRATEGIES, LETTERS[: len(choices)] or ("", " ", "spleen")):
        assert grade(text, choices=choices, target=target, strategy=strategy).outcome is N


FORMS = (
    *(
        "{0}",
        "({0})",
        "{0})",
        "{0}.",
        "Option {0}",
        "{0}) {t0}",
        "{0}. {t0}",
        "{t0}",
        "{t0} ({0})",
        "{0}) {t1}",
        "{0} or {1}",
        "{0}, not {1}",
    ),
    *(
        "not {0}",
        "not {0} but {1}",
        "{t0} or {t1}",
        "The answer is {0}.",
        "Answer: {0}",
        "the answer is {t1}",
        "\\boxed{{{0}}}",
        "答案是{0}",
    ),
    *(
        '{{"answer": "{0}"}}',
        "{0} because {1} is dark",
        "{0} is wrong. {1} is correct.",
        "{0}\n{1}",
        "{0} and {0}",
        "I think {0}",
        "{0} {1}",
    ),
    *("{0}) {t0} {1}) {t1}", "{0} is shown", "the {t0}", "{0}, {t1}", "{0}?", "It is {t0}.", "{0} rather than {t1}"),
)


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    options=st.lists(
        st.sampled_from(("CT", "CT angiography", "Hepatitis C", "A cyst", "X-ray", "No", "Yes", "磁共振", "B cell", "5 mm", "grade II")),
        min_size=2,
        max_size=7,
    ),
    data=st.data(),
    wraps=st.booleans(),
)
def test_relabelling_the_options_changes_nothing(form: str, options: list[str], data: st.DataObject, wraps: bool) -> None:
    first, second, gold = (data.draw(st.integers(0, len(options) - 1)) for _ in range(3))
    order = data.draw(st.permutations(range(len(options))))  # the new place of each option

    def outcome(place: list[int]) -> tuple[Outcome, str]:
        choices = [options[place.index(letter)] for letter in range(len(options))]
        text = form.format(LETTERS[place[first]], LETTERS[place[second]], t0=options[first], t1=options[second])
        text = f"<think>x</think><answer>{text}</answer>" if wraps else text
        verdict = grade(text, choices=choices, target=LETTERS[place[gold]], strategy="think")
        return verdict.outcome, verdict.rule

    assert outcome(list(range(len(options)))) == outcome(list(order))


HOSTILE = (
    *(
        "answer ",
        "A, ",
        "A) ",
        "not ",
        "<",
        "<   ",
        "<answer>",
        "<think>",
        "</think>",
        "(",
        "**",
        "*a",
        "\n",
        "A.",
        "option ",
        "The ",
        "CT, ",
    ),
    *(
        '{"answer":',
        "[",
        "\\",
        "\\boxed{",
        "e\u0301\u0323\u0301",
        "\ufdfa",
        "<|",
        "A or ",
        "the answer is A or B, ",
        "'",
        "n't",
        "\u200b",
        "答案",
    ),
)


def cost(text: str, choices: tuple[str, ...]) -> int:
    return count_lines(grade, text, choices=choices, target="A" if choices else "x", strategy="think")


@pytest.mark.parametrize("piece", HOSTILE)
def test_cost_is_linear_in_hostile_text(piece: str) -> None:
    short, long = ((piece * size)[:size] for size in (2_000, 10_000))
    for choices in (MODALITIES, ()):
        assert cost(long, choices) <= 6 * cost(short, choices) + 1_000
        assert cost(long, choices) < 400_000
