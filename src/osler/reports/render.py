"""Rendering of the HTML templates, with their filters. All text from files is escaped."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from osler import __version__
from osler.metrics import p_value, percent, points
from osler.metrics.agreement import coefficient
from osler.prompts import layout_context
from osler.reports.load_runs import environment_rows
from osler.reports.tables import group_title

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MAX_WHOLE: Final = 14
"""The most letters of a hyphenated word that never breaks at its hyphen."""

_HYPHENATED: Final = re.compile(r"(?<![\w-])[A-Za-z]\w*(?:-[A-Za-z]\w*)+(?![\w-])")


def render(template: str, **content: Any) -> str:
    """A template as one HTML text that needs no other file and no network."""
    return _environment().get_template(template).render(version=__version__, **content).lstrip()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("osler.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=percent,
        points=points,
        p_value=p_value,
        decimals=lambda value: percent(None) if value is None else f"{value:.3f}",
        coefficient=coefficient,
        number=lambda value: f"{value:,}",
        two_lines=lambda text: Markup('{}<span class="sub">[{}</span>').format(*text.split(" [")) if " [" in text else text,
        group_title=group_title,
        environment_rows=environment_rows,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        svg=lambda figure: Markup(figure.svg),  # matplotlib escaped its text
        whole=keep_whole,
        line=layout_context,
    )
    environment.globals.update(glossary=read_glossary())
    return environment


@cache
def read_glossary() -> Mapping[str, tuple[str, str]]:
    """Name -> (title, explanation) of each term that templates explain, e.g. "dash" -> ("A dash", "There is nothing to measure ..")."""
    text = files("osler.reports").joinpath("templates", "glossary.toml").read_text(encoding="utf-8")
    return {name: (title, what) for name, (title, what) in tomllib.loads(text).items()}


def keep_whole(text: str) -> Markup:
    """The escaped text, in which short hyphenated words such as "No-Think" or "X-ray" do not break at the hyphen."""
    from markupsafe import Markup, escape

    def keep(match: re.Match[str]) -> str:
        return f'<span class="nb">{match[0]}</span>' if len(match[0]) <= MAX_WHOLE else match[0]

    return Markup(_HYPHENATED.sub(keep, escape(text)))
