"""Osler trains compact vision-language models to reason about medical images, and measures whether they looked.

>>> samples = osler.read("phantom", split="test", modalities=["mri"], num_questions=4)
>>> policy = osler.load_policy("osler-tiny")
>>> osler.ask(policy, samples[0], strategy="think").outcome
'correct'

Importing this package loads neither torch nor any reader: each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osler.data.readers import read as read
    from osler.evaluation.run import ask as ask
    from osler.grading import grade as grade
    from osler.policies.load import load_policy as load_policy

__version__ = "0.1.0"
__all__ = ["__version__", "ask", "grade", "load_policy", "read"]

_HOMES = {"ask": "osler.evaluation.run", "grade": "osler.grading", "load_policy": "osler.policies.load", "read": "osler.data.readers"}


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module 'osler' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
