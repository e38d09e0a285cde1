"""How often the grader misreads an answer or leaves it unread, over the choice sets of real data: one row for each phrasing.

    python -m tools.check_grader DATA      # the folder that holds slake/, vqa_rad/, omnimedvqa_splits/ and medvlm_r1/

A right and a wrong option of every choice set are written in each phrasing. Misread: the verdict names another option, or, of a refusal and
of two answers, any option. Unread: it names none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from osler.data.readers import ReadReport, read_with_report
from osler.grading import grade
from osler.types import LETTERS

Writer = Callable[[str, str], str]
"""Letter and text of an option -> an answer that gives it."""

ANSWERS: Final[Mapping[str, Writer]] = {
    "`<answer>B</answer>`": lambda letter, _: f"<answer>{letter}</answer>",
    "`<answer>(b)</answer>`": lambda letter, _: f"<answer>({letter.lower()})</answer>",
    "`<answer>B) MRI</answer>`": lambda letter, text: f"<answer>{letter}) {text}</answer>",
    "`<answer>MRI</answer>`": lambda _, text: f"<answer>{text}</answer>",
    "`<answer>mri.</answer>`": lambda _, text: f"<answer>{text.lower()}.</answer>",
    "`<answer>Option B</answer>`": lambda letter, _: f"<answer>Option {letter}</answer>",
    "`<think>..</think><answer>MRI (B)</answer>`": lambda letter, text: f"<think>I look at it.</think><answer>{text} ({letter})</answer>",
    "`B`": lambda letter, _: letter,
    "`B. MRI`": lambda letter, text: f"{letter}. {text}",
    "`MRI`": lambda _, text: text,
    "`**B) MRI**`": lambda letter, text: f"**{letter}) {text}**",
    "`\\boxed{B}`": lambda letter, _: f"\\boxed{{{letter}}}",
    "`The answer is B.`": lambda letter, _: f"The answer is {letter}.",
    "`The correct answer is B) MRI.`": lambda letter, text: f"The correct answer is {letter}) {text}.",
    "`The answer is: MRI`": lambda _, text: f"The answer is: {text}",
    "`I think it is MRI.`": lambda _, text: f"I think it is {text}.",
    "`Looking at it, I choose B.`": lambda letter, _: f"Looking at it, I choose {letter}.",
    "`Final answer:` newline `B`": lambda letter, _: f"It has clear signs.\nFinal answer:\n{letter}",
    "`B is correct because ..`": lambda letter, _: f"{letter} is correct because it fits best.",
    "`答案是B。`": lambda letter, _: f"答案是{letter}。",
    '`{"answer": "B"}`': lambda letter, _: f'{{"answer": "{letter}"}}',
    "`The image shows MRI.` (lenient)": lambda _, text: f"The image shows {text}.",
    "`A MRI is present (B)` (lenient)": lambda letter, text: f"A {text} is present ({letter})",
    "`B B` (lenient)": lambda letter, _: f"{letter} {letter}",
}
REFUSALS: Final = (
    *("I cannot answer this question.", "I am unable to determine this from the image.", "The image is unclear.", "Unknown", ""),
    *("As an AI model I cannot give medical advice.", "It is impossible to tell without more information.", "<answer></answer>"),
    *(
        "<answer>I do not know</answer>",
        "<answer>?</answer>",
        "None of these options.",
        "Please consult a doctor.",
        "无法判断。",
        "Not sure",
    ),
    *("I need a better image to answer.", "<think>It is hard to say.</think>", "The question cannot be answered.", "There is no image."),
    *("Sorry, I can't help with that.", "Further tests are needed."),
)
PAIRS: Final[Mapping[str, Callable[[str, str, str, str], str]]] = {
    "`A or B`": lambda a, _, b, __: f"{a} or {b}",
    "`A and B`": lambda a, _, b, __: f"{a} and {b}",
    "`A, B`": lambda a, _, b, __: f"{a}, {b}",
    "`A/B`": lambda a, _, b, __: f"{a}/{b}",
    "`<answer>A or B</answer>`": lambda a, _, b, __: f"<answer>{a} or {b}</answer>",
    "`<answer>A) CT, B) MRI</answer>`": lambda a, s, b, t: f"<answer>{a}) {s}, {b}) {t}</answer>",
    "`The answer is A or B.`": lambda a, _, b, __: f"The answer is {a} or {b}.",
    "`Either A or B`": lambda a, _, b, __: f"Either {a} or {b}",
    "`CT or MRI`": lambda _, s, __, t: f"{s} or {t}",
    "`It is CT or MRI.`": lambda _, s, __, t: f"It is {s} or {t}.",
    "`A is correct. B is correct.`": lambda a, _, b, __: f"{a} is correct. {b} is correct.",
    "lines `A) CT` and `B) MRI`": lambda a, s, b, t: f"{a}) {s}\n{b}) {t}",
    "`A 或 B`": lambda a, _, b, __: f"{a}或{b}",
    "`The answer is A. The answer is B.`": lambda a, _, b, __: f"The answer is {a}. The answer is {b}.",
    "`A (or B)`": lambda a, _, b, __: f"{a} (or {b})",
    "`I choose A, maybe B`": lambda a, _, b, __: f"I choose {a}, maybe {b}",
    "`Possible: A, B`": lambda a, _, b, __: f"Possible: {a}, {b}",
    "`A & B`": lambda a, _, b, __: f"{a} & {b}",
    "`A+B`": lambda a, _, b, __: f"{a}+{b}",
    "`The image shows CT and MRI.`": lambda _, s, __, t: f"The image shows {s} and {t}.",
}
Table = dict[str, Counter[str]]


def read_choice_sets(data: Path, read: Callable[..., ReadReport] = read_with_report) -> set[tuple[tuple[str, ...], int]]:
    """Every different (choices, right option) of the datasets in the folder; `read` may be one that keeps what it has read."""
    sources = [
        ("slake", data / "slake", {"language": "all"}),
        ("vqa_rad", data / "vqa_rad", {}),
        ("med_r1", data / "omnimedvqa_splits", {"axis": "modality"}),
        ("med_r1", data / "omnimedvqa_splits", {"axis": "question_type"}),
        ("huatuo", data / "medvlm_r1", {}),
    ]
    samples = (sample for name, root, options in sources for sample in read(name, root, **options).samples)
    return {(sample.choices, LETTERS.index(sample.target)) for sample in samples if sample.choices}


def _answers(choices: Sequence[str], option: int) -> Iterator[tuple[str, str]]:
    for name, write in ANSWERS.items():
        yield name, write(LETTERS[option], choices[option].rstrip(".") if "lenient" in name else choices[option])


def count_answers(sets: Sequence[tuple[tuple[str, ...], int]]) -> Table:
    """Phrasing -> how many right and wrong options were read, misread and unread."""
    table: Table = {name: Counter() for name in ANSWERS}
    for choices, right in tqdm(sets, desc="answers", disable=None):
        for kind, option in (("right", right), ("wrong", (right + 1) % len(choices))):
            for name, text in _answers(choices, option):
                answer = grade(text, choices=choices, target=LETTERS[right], strategy="zero_shot").answer
                what = "unread" if answer is None else "read" if answer == LETTERS[option] else "misread"
                table[name][f"{kind} {what}"] += 1
    return table


def count_others(sets: Sequence[tuple[tuple[str, ...], int]]) -> tuple[Counter[str], Counter[str]]:
    """Refusal -> choice sets where it is read as an option, those aside that have it as one; the same for phrasings of two options."""
    refusals, pairs = Counter[str](), Counter[str]()
    for choices, right in tqdm(sets, desc="refusals and pairs", disable=None):
        other = (right + 1) % len(choices)
        first, second = (choices[option].rstrip(".") for option in (right, other))
        for text in REFUSALS:
            refusals[text] += grade(text, choices=choices, target=LETTERS[right], strategy="zero_shot").answer is not None
        for name, write in PAIRS.items():
            text = write(LETTERS[right], first, LETTERS[other], second)
            pairs[name] += grade(text, choices=choices, target=LETTERS[right], strategy="zero_shot").answer is not None
    return refusals, pairs


def report(sets: Sequence[tuple[tuple[str, ...], int]]) -> Iterator[str]:
    """The lines of the tables, in Markdown."""
    yield f"{len(sets):,} different choice sets with a right option\n"
    yield "| Phrasing | right: misread | unread | wrong: misread | unread |\n|---|---|---|---|---|"
    for name, counts in count_answers(sets).items():
        numbers = [counts[f"{kind} {what}"] for kind in ("right", "wrong") for what in ("misread", "unread")]
        yield f"| {name} | " + " | ".join(f"{number:,} ({number / len(sets):.2%})" for number in numbers) + " |"
    for title, counts in zip(("Refusal", "Two answers"), count_others(sets), strict=True):
        yield f"\n| {title} | read as an answer |\n|---|---|"
        for name, count in counts.items():
            yield f"| {name if name.startswith(('`', 'lines')) else f'`{name}`'} | {count:,} ({count / len(sets):.2%}) |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in report(sorted(read_choice_sets(Path(sys.argv[1])))))
