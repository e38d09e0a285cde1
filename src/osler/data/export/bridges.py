"""The small files that stand beside exported questions, so that other tools ask and grade as Osler does.

Each grades by `osler.grade`, the only grader, which imports no torch; `{name}` and `{strategy}` are filled in by `exporting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_VERL: Final = '''\
"""Osler's reward for verl: accuracy and format, each 0 or 1, summed. Needs `pip install osler` where verl runs.

    data.train_files=train.parquet data.val_files=test.parquet data.image_key=images
    custom_reward_function.path=reward.py custom_reward_function.name=compute_score
"""

import osler


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """The reward of one completion, with its parts."""
    verdict = osler.grade(solution_str, choices=tuple(extra_info["choices"]), target=ground_truth, strategy=extra_info["strategy"])
    accuracy, form = float(verdict.outcome == "correct"), float(verdict.is_well_formed)
    return {"score": accuracy + form, "accuracy": accuracy, "format": form}
'''

_MS_SWIFT: Final = '''\
"""Osler's rewards for ms-swift 4. Needs `pip install osler` where ms-swift runs; image paths start from this folder.

    swift rlhf --rlhf_type grpo --dataset train.jsonl --val_dataset test.jsonl --external_plugins plugin.py \\
        --reward_funcs osler_accuracy osler_format --remove_unused_columns false
"""

import osler
from swift.rewards import ORM, orms


def _grade(completions, solution, choices, strategy):
    rows = zip(completions, solution, choices, strategy)
    return [osler.grade(text, choices=tuple(options or ()), target=target, strategy=name) for text, target, options, name in rows]


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
'''

_EASYR1: Final = """\
# What EasyR1's `data` section has to say of these files; image paths start from this folder, so name it in full where another is current.
# The prompt is complete ({strategy}), so no format_prompt goes around it. EasyR1 hands its reward functions nothing but the completion and
# `answer`, the right letter (or the reference text of an open-ended question).
data:
  train_files: train.{suffix}
  val_files: test.{suffix}
  prompt_key: problem
  answer_key: answer
  image_key: images
  image_dir: .
  format_prompt: null
"""

_LMMS_EVAL_YAML: Final = """\
# lmms-eval --include_path THIS_FOLDER --tasks {name} --model qwen2_vl --model_args pretrained=...
# Prompts are Osler's ({strategy}); answers are graded by osler.grade, so `pip install osler` there too.
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: test.parquet
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: target
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 256
  temperature: 0
  do_sample: false
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
  - metric: answered
    aggregation: mean
    higher_is_better: true
  - metric: well_formed
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

_LMMS_EVAL_UTILS: Final = '''\
"""How lmms-eval asks and grades Osler's questions."""

import osler


def doc_to_visual(doc):
    """The pictures of a question, in order."""
    return [picture.convert("RGB") for picture in doc["images"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The prompt, rendered when the task was exported."""
    return doc["prompt"]


def process_results(doc, results):
    """Three metrics of one completion, each 0 or 1."""
    verdict = osler.grade(results[0], choices=tuple(doc["choices"]), target=doc["target"], strategy=doc["strategy"])
    return {
        "accuracy": float(verdict.outcome == "correct"),
        "answered": float(verdict.outcome in ("correct", "incorrect")),
        "well_formed": float(verdict.is_well_formed),
    }
'''

TEMPLATES: Final[Mapping[str, str]] = MappingProxyType(
    {"verl": _VERL, "ms_swift": _MS_SWIFT, "easyr1": _EASYR1, "lmms_eval_yaml": _LMMS_EVAL_YAML, "lmms_eval_utils": _LMMS_EVAL_UTILS}
)
