"""Audits from the arguments of a command, and what their JSON holds."""

from __future__ import annotations

from typing import Any

from osler.audits.findings import Audit
from osler.audits.run import AuditOptions, audit
from osler.config import load_config


def run(*arguments: str, options: AuditOptions | None = None) -> Audit:
    return audit(load_config(None, arguments).data, options)


def at(report: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        report = report[key]
    return report
