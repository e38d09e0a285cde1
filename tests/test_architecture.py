"""docs/architecture.md: the files that it lists exist, and each is used by one before it."""

import re
from pathlib import Path

import pytest
from test_layers import PACKAGE, imports_of

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
MAX_FILES = 12


def files_of(heading: str) -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`:", section, re.MULTILINE)


def module_of(file: str) -> str:
    return "osler." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.mark.parametrize("heading", ["From `osler train` to the loss", "From `osler eval` to a grade"])
def test_the_way_is_short_and_connected(heading: str) -> None:
    files = files_of(heading)
    assert 1 < len(files) <= MAX_FILES
    for number, file in enumerate(files):
        assert (PACKAGE / file).is_file(), file
        used = set[str]().union(*(imports_of(module_of(before)) for before in files[:number]))
        assert number == 0 or module_of(file) in used, f"{file} is imported by no file before it"


def test_every_path_of_the_page_exists() -> None:
    root = PACKAGE.parents[1]
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", PAGE):
        assert (PACKAGE / name).exists() or (root / name).exists(), name
