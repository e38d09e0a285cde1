"""How many lines of Python a call runs: a cost that does not depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def count_lines(call: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    """The lines that `call(*arguments, **options)` runs."""
    steps = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*arguments, **options)
    finally:
        sys.settrace(before)
    return steps
