"""Explanations of the terms on the pages, for readers outside the field. Templates show them below the sections that use them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType


@cache
def read_glossary() -> Mapping[str, tuple[str, str]]:
    """Name -> (title, explanation) of every term, e.g. "dash" -> ("A dash", "There is nothing to measure ..")."""
    text = files("osler.reports").joinpath("templates", "glossary.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: (title, what) for name, (title, what) in tomllib.loads(text).items()})
