"""The command line: one file a verb, which reads the arguments, calls the stage and prints its result."""

from __future__ import annotations

import sys

from clouds_deploy.cli.app import app
from clouds_deploy.errors import CloudsError, missing_package

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line; mistakes of the user end in two lines and an exit code."""
    try:
        try:
            app(prog_name="clouds-deploy")
        except ModuleNotFoundError as error:
            raise missing_package(error) or error from error
    except CloudsError as error:
        from rich.markup import escape

        from clouds_deploy.console import console

        console().print(f"[red]error:[/] {escape(error.message)}")
        if error.hint:
            console().print(f"  [cyan]hint:[/] {escape(error.hint)}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted; finished results are kept", file=sys.stderr)  # noqa: T201
        sys.exit(130)
