"""Osler trains compact vision-language models to reason about medical images, and measures whether they looked.

>>> samples = osler.read("phantom", split="test", modalities=["mri"], num_questions=4)
>>> policy = osler.load_policy("osler-tiny")
>>> osler.ask(policy, samples[0], strategy="think").outcome
'correct'

Importing this package imports neither torch nor any reader: each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osler.audits.run import audit as audit
    from osler.config import load_config as load_config
    from osler.context import Context as Context
    from osler.data.readers import read as read
    from osler.data.readers import register_reader as register_reader
    from osler.errors import OslerError as OslerError
    from osler.evaluation.engines import register_engine as register_engine
    from osler.evaluation.run import ask as ask
    from osler.evaluation.run import evaluate as evaluate
    from osler.grading import grade as grade
    from osler.grading.rewards import register_reward as register_reward
    from osler.policies.families import Family as Family
    from osler.policies.families import register_family as register_family
    from osler.policies.load import Policy as Policy
    from osler.policies.load import load_policy as load_policy
    from osler.prompts import Strategy as Strategy
    from osler.prompts import register_strategy as register_strategy
    from osler.prompts import render as render
    from osler.reports.make import write_report as report
    from osler.training.grpo import train_grpo as train_grpo
    from osler.training.sft import train_sft as train_sft
    from osler.types import Completion as Completion
    from osler.types import Prompt as Prompt
    from osler.types import Record as Record
    from osler.types import Sample as Sample
    from osler.types import Verdict as Verdict

__version__ = "0.1.0"

_MODULES = {
    "osler.audits.run": ("audit",),
    "osler.config": ("load_config",),
    "osler.context": ("Context",),
    "osler.data.readers": ("read", "register_reader"),
    "osler.errors": ("OslerError",),
    "osler.evaluation.engines": ("register_engine",),
    "osler.evaluation.run": ("ask", "evaluate"),
    "osler.grading": ("grade", "register_reward"),
    "osler.policies.families": ("Family", "register_family"),
    "osler.policies.load": ("Policy", "load_policy"),
    "osler.prompts": ("Strategy", "register_strategy", "render"),
    "osler.reports.make": ("write_report",),
    "osler.training.grpo": ("train_grpo",),
    "osler.training.sft": ("train_sft",),
    "osler.types": ("Completion", "Prompt", "Record", "Sample", "Verdict"),
}
_HOMES = {name: (module, name) for module, names in _MODULES.items() for name in names}
_HOMES["report"] = _HOMES.pop("write_report")

__all__ = [
    "Completion",
    "Context",
    "Family",
    "OslerError",
    "Policy",
    "Prompt",
    "Record",
    "Sample",
    "Strategy",
    "Verdict",
    "__version__",
    "ask",
    "audit",
    "evaluate",
    "grade",
    "load_config",
    "load_policy",
    "read",
    "register_engine",
    "register_family",
    "register_reader",
    "register_reward",
    "register_strategy",
    "render",
    "report",
    "train_grpo",
    "train_sft",
]


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module 'osler' has no attribute {name!r}")
    return getattr(import_module(home[0]), home[1])


def __dir__() -> list[str]:
    return sorted(__all__)
