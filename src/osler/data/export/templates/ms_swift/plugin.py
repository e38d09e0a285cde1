"""Osler's rewards for ms-swift 4. Needs `pip install osler` where ms-swift runs; image paths start from this folder.

    swift rlhf --rlhf_type grpo --dataset train.jsonl --val_dataset test.jsonl --external_plugins plugin.py \
        --reward_funcs osler_accuracy osler_format --remove_unused_columns false
"""

import osler
from swift.rewards import ORM, orms


def _grade(completions, solution, choices, strategy):
    rows = zip(completions, solution, choices, strategy)
    return [
        osler.grade(text, choices=tuple(options or ()), target=target, strategy=name, is_lenient=False)
        for text, target, options, name in rows
    ]


class OslerAccuracy(ORM):
    """1 for a right answer, else 0."""

    def __call__(self, completions, solution, choices, strategy, **kwargs):
        return [float(verdict.outcome == "correct") for verdict in _grade(completions, solution, choices, strategy)]


class OslerFormat(ORM):
    """1 for a completion in the strategy's strict form, else 0."""

    def __call__(self, completions, solution, choices, strategy, **kwargs):
        return [float(verdict.is_well_formed) for verdict in _grade(completions, solution, choices, strategy)]


orms["osler_accuracy"] = OslerAccuracy
orms["osler_format"] = OslerFormat
