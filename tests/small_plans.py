"""Plans of small matrices, for the tests of planning and of what comes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osler.experiments.plan import AxisPlan, MatrixOptions, plan_axis

RECIPE = "matrix_phantom"


def make_plan(*, axis: str = "modality", overrides: Sequence[str] = (), **options: Any) -> AxisPlan:
    """The plan of an axis; `options` are those of the matrix."""
    return plan_axis(RECIPE, Path("out"), axis, MatrixOptions(**options), overrides)  # type: ignore[arg-type]


def write_med_r1(root: Path, *, train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Files of two questions without rationales for each domain, and the overrides that read them."""
    for split, names in (("train", train), ("test", test)):
        folder = root / "modality" / split
        folder.mkdir(parents=True)
        for name in names:
            rows = [{"image": f"{name}{i}.png", "problem": "Which? A)a, B)b", "solution": "<answer> A </answer>"} for i in range(2)]
            (folder / f"{name}_{split}.json").write_text(json.dumps(rows))
    return ["--data.reader=med_r1", f"--data.root={root}"]
