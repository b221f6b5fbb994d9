"""`clouds-deploy doctor`."""

from __future__ import annotations

from typing import Any

import typer

from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver

_MARKS = {"ok": "ok  ", "absent": "-   ", "fault": "FAIL"}


def doctor(as_json: Json = False) -> None:
    """Check what is installed and what works, with a fix for each problem."""
    from clouds_deploy.doctor import doctor as run

    result = run()
    deliver(result, as_json, _render)
    if not result["ok"]:
        raise typer.Exit(1)


def _render(result: dict[str, Any]) -> None:
    for check in result["checks"]:
        typer.echo(f"{_MARKS[check['verdict']]} {check['name']:<18} {check['detail']}")
        if check["fix"]:
            typer.echo(f"{'':<23} fix: {check['fix']}")
