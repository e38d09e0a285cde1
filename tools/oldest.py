"""The lowest version of each run-time dependency that pyproject.toml admits, as pip constraints: `python tools/oldest.py`.

Development tools keep the versions of constraints.txt, so that only what users install is old.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest(requirement: str) -> tuple[str, str]:
    """Name and lowest version of a requirement: "numpy>=2.2,<3" -> ("numpy", "2.2"); "trl==1.16.*" -> ("trl", "1.16.0")."""
    match = re.match(r"([\w-]+)(?:>=|==)([\d.]+?)(\.\*)?(?:,|$)", requirement)
    if match is None:
        raise SystemExit(f"{requirement!r} has no lowest version: write it as name>=version")
    return match[1], f"{match[2]}.0" if match[3] else match[2]


def main() -> None:
    """Print one constraint a line, torch first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = dict(map(lowest, project["dependencies"]))
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in pinned if "==" in line and line.partition("==")[0] not in oldest]
    sys.stdout.write("\n".join([*(f"{name}=={version}" for name, version in oldest.items()), *kept]) + "\n")


if __name__ == "__main__":
    main()
