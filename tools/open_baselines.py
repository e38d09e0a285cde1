"""What answers without the image reach on the open questions of real data: accuracy, and the reward `open_answer`.

    python -m tools.open_baselines DATA      # the folder that holds slake/ and vqa_rad/

Priors are fitted on the train split and scored on another one, by the rules of the grader.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from osler.audits.open_baselines import OPEN_BASELINES, open_answers, open_questions
from osler.data.readers import read_with_report
from osler.grading import REWARDS, grade
from osler.grading.grade import is_undecided
from osler.metrics import mean, percent, proportion, rouge_l, token_f1
from osler.types import Outcome, Sample

Writer = Callable[[Sample], str]

DATASETS: Final[Mapping[str, tuple[str, str, dict[str, str]]]] = {
    "SLAKE, English, validation": ("slake", "validation", {"language": "en"}),
    "SLAKE, Chinese, test": ("slake", "test", {"language": "zh"}),
    "VQA-RAD, test": ("vqa_rad", "test", {}),
}
"""Title -> reader, split and options."""


def read_open(data: Path, name: str, split: str, **options: str) -> list[Sample]:
    """The open questions of a split."""
    return open_questions(read_with_report(name, data / name, split=split, **options).samples)


def writers(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, Writer]:
    """Ways to answer `test` without the image, by their title."""
    usual = [text for text, _ in Counter(sample.target for sample in train).most_common(20)]
    fitted = {OPEN_BASELINES[name].title: answers for name, answers in open_answers(train, test).items()}
    return {title: lambda sample, answers=answers: answers[sample.id] for title, answers in fitted.items()} | {
        "the question itself": lambda sample: sample.question,
        "the question without its mark": lambda sample: sample.question.rstrip("?？ "),
        "20 most frequent answers": lambda _: ", ".join(usual),
        "the same without commas": lambda _: " ".join(usual),
        "3 most frequent answers, or": lambda _: " or ".join(usual[:3]),
        "left and right": lambda _: "left and right",
        "no abnormality": lambda _: "no abnormality",
        "an abnormality in this organ": lambda _: "there is an abnormality in this organ in the image",
    }


def report(data: Path) -> Iterator[str]:
    """The lines of a table in Markdown: one row for each dataset and way to answer, all numbers but the first in per cent."""
    yield "| data | answer | questions | accuracy | undecided | token F1 | ROUGE-L | reward |\n|---|---|---|---|---|---|---|---|"
    for title, (name, tested, options) in DATASETS.items():
        train, test = (read_open(data, name, split, **options) for split in ("train", tested))
        for way, write in writers(train, test).items():
            yield f"| {title} | {way} | {len(test):,} | " + " | ".join(measure(test, write)) + " |"


def measure(samples: Sequence[Sample], write: Writer) -> list[str]:
    """Accuracy with its interval, undecided share, token F1, ROUGE-L and mean reward, as text."""
    answers = [write(sample) for sample in samples]
    texts = [f"<answer>{answer}</answer>" for answer in answers]
    targets = [sample.target for sample in samples]
    strategies = ["no_think"] * len(samples)
    verdicts = [grade(text, choices=(), target=target, strategy="no_think") for text, target in zip(texts, targets, strict=True)]
    rewards = REWARDS["open_answer"](
        [sample.question for sample in samples], texts, choices=[()] * len(samples), target=targets, strategy=strategies
    )
    pairs = list(zip(answers, targets, strict=True))
    shares = (
        mean([is_undecided(verdict.rule) for verdict in verdicts]),
        mean([token_f1(*pair) for pair in pairs]),
        mean([rouge_l(*pair) for pair in pairs]),
        mean(rewards),
    )
    right = sum(verdict.outcome is Outcome.CORRECT for verdict in verdicts)
    return [str(proportion(right, len(samples))), *map(percent, shares)]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in report(Path(sys.argv[1])))
