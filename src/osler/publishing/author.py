"""What only the author of a model can say: one TOML file for the card and for the reporting checklist.

::

    license = "apache-2.0"                       # an identifier of the hub
    developers = "A. Author, Example University"
    contact = "author@example.org"
    base_model = "Qwen/Qwen2-VL-2B-Instruct"     # where the run names a folder of this machine
    intended_use = "Teaching how to measure image reliance."
    dataset_id = "example/radiology-questions"   # of the training data on the hub
    dataset_license = "cc-by-4.0"
    repository = "https://github.com/example/project"

    [energy]
    kwh = 1.8
    kg_co2 = 0.7
    measured_with = "codecarbon 3.0"

    [checklist]
    "TRIPOD-LLM 13" = "Exempt: the images were drawn by a program."
    "CLAIM 42" = "No funding."
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from osler.config import Section, nearest, read_toml
from osler.errors import ConfigError


class Energy(Section):
    """`[energy]`: what training used, as measured by another tool."""

    kwh: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    kg_co2: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    measured_with: str  # the tool, or how it was estimated


class Author(Section):
    """The file; every key may be left out, and the card then says that nothing was stated."""

    license: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9.-]*$")
    developers: str | None = None
    contact: str | None = None
    base_model: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    intended_use: str | None = None
    dataset_id: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    dataset_license: str | None = None
    repository: str | None = Field(default=None, pattern=r"^https?://\S+$")
    energy: Energy | None = None
    checklist: dict[str, str] = Field(default_factory=dict)  # "CLAIM 42" -> what the author reports


def read_author(path: Path | None) -> Author:
    """The author's file, an empty one without a path. Raises ConfigError, in one line, for a file that is missing or has other keys."""
    if path is None:
        return Author()
    if not path.is_file():
        raise ConfigError(f"no file {path}: give --author a TOML file (docs/publishing.md shows one)")
    try:
        return Author.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first fault in one line; for an unknown key with the keys of its section."""
    fault = error.errors()[0]
    where = [str(part) for part in fault["loc"]]
    if fault["type"] != "extra_forbidden":
        return f"{'.'.join(where)}: {fault['msg']}"
    known = sorted((Energy if where[:-1] == ["energy"] else Author).model_fields)
    return f"unknown key {'.'.join(where)}{nearest(where[-1], known)} (known here: {', '.join(known)})"
