"""Imports point strictly down between packages, no package holds a cycle, and nothing below the policies imports torch."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import osler

PACKAGE = Path(osler.__file__).parent
LAYERS = [
    {"errors"},
    {"files", "text", "registry", "elsewhere"},
    {"taxonomy", "facts", "context"},
    {"types", "config"},
    {"prompts", "metrics", "run_folder"},
    {"grading"},
    {"images"},
    {"data"},
    {"policies", "audits"},
    {"training", "evaluation"},  # neither imports the other
    {"doctor"},
    {"reports"},
    {"experiments"},
    {"serving", "publishing"},  # neither imports the other
    {"cli"},
]
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
SOURCES = {
    ".".join(("osler", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "templates" not in path.parts  # files that `osler export` writes for other tools
}
ENTRY = {"osler", "osler.__main__"}  # the public face; it imports lazily from every layer


@cache
def imports_of(name: str) -> set[str]:
    """The modules of Osler that a module imports anywhere in its code, in functions and for type checking too."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from osler.metrics import gain` names a module, `from osler.metrics import percent` a name in the package.
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {path if path in SOURCES else node.module for path in paths}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return (imported & SOURCES.keys()) - {name, "osler"}


def package_of(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - ENTRY))
def test_imports_point_down(name: str) -> None:
    for imported in imports_of(name):
        own, other = package_of(name), package_of(imported)
        assert own == other or LAYER_OF[other] < LAYER_OF[own], f"{name} imports {imported}, which does not lie below it"


def test_every_module_has_a_layer() -> None:
    assert {package_of(name) for name in SOURCES.keys() - ENTRY} == LAYER_OF.keys()


def test_no_import_cycle() -> None:
    """`prepare` raises CycleError, which names the modules."""
    TopologicalSorter({name: imports_of(name) for name in SOURCES}).prepare()


LIGHT = sorted(
    name
    for name in SOURCES
    if name != "osler.__main__" and (name == "osler" or LAYER_OF[package_of(name)] < LAYER_OF["policies"] or package_of(name) == "cli")
)


@pytest.mark.integration
def test_light_modules_import_no_torch() -> None:
    heavy = ("torch", "transformers", "matplotlib", "statsmodels")
    code = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(name)
    assert not sys.modules.keys() & {set(heavy)!r}, name
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
