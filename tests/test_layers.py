"""Imports point down only, and nothing below the models imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import osler

PACKAGE = Path(osler.__file__).parent
LAYERS = {
    0: {"types", "taxonomy", "errors"},
    1: {"config", "images"},
    2: {"phantom", "readers", "audit", "prompts", "scoring", "metrics", "records", "runs", "selection", "published"}
    | {"items", "ablations", "alterations", "reasoning", "consistency", "fingerprints", "manifests", "splits", "bridges"},
    3: {"models", "processing", "engines", "callbacks", "trainer", "sharing", "tiny"},
    4: {"train", "sft", "training", "evaluate", "report", "reporting", "data", "splitting", "exporting", "auditing", "jobs"},
    5: {"demo", "matrix", "planning", "probes"},  # run the workflows, most of them as commands in a process of their own
    6: {"verbs"},
    7: {"cli"},
}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}
WORKFLOWS = {"train", "sft", "evaluate", "data", "splitting", "exporting", "auditing"}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "osler":
            parts = node.module.split(".")
            names.update({parts[1]} if len(parts) > 1 else {alias.name for alias in node.names})
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("osler."))
    return names


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    for imported in imports_of(path) & LAYER_OF.keys():
        assert LAYER_OF[imported] <= LAYER_OF[module], f"{module} imports {imported}, which lies above it"
        assert not (module in WORKFLOWS and imported in WORKFLOWS and imported != module), f"{module} imports the workflow {imported}"


def test_every_module_has_a_layer() -> None:
    assert {module_of(path) for path in SOURCES} == LAYER_OF.keys()


LIGHT = [
    "osler",
    "osler.config",
    "osler.cli.main",
    "osler.data.phantom",
    "osler.prompts",
    "osler.grading",
    "osler.metrics",
    "osler.evaluation.records",
    "osler.data.readers",
    "osler.images.files",
    "osler.reports.make",
    "osler.data.inspect",
    "osler.experiments.demo",
    "osler.run_folder",
    "osler.data.select",
    "osler.evaluation.ablations",
    "osler.evaluation.compare",
    "osler.evaluation.reasoning_rules",
    "osler.evaluation.interventions",
    "osler.audits",
    "osler.audits.run",
    "osler.experiments.matrix",
]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib', 'statsmodels')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
