"""The command line: one thin file a verb, each parse -> api -> render."""

from __future__ import annotations

import sys

from clouds_deploy.cli.app import app
from clouds_deploy.errors import CloudsError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; faults of the user's end in two lines and an exit code, never in a traceback."""
    try:
        app()
    except CloudsError as error:
        from rich.markup import escape

        from clouds_deploy.console import console

        console().print(f"[red]error:[/] {escape(error.message)}")
        if error.hint:
            console().print(f"  [cyan]hint:[/] {escape(error.hint)}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted; what was complete is kept", file=sys.stderr)  # noqa: T201
        sys.exit(130)
