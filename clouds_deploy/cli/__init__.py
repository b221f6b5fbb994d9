"""The command line: one file a verb, which reads the arguments, calls the stage and prints its result."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from clouds_deploy.cli.app import app
from clouds_deploy.errors import CloudsError, missing_package

__all__ = ["app", "main"]

_PROCESS = os.getpid()


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ends the process as an exception, so that what is half written is removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.getpid() == _PROCESS else signal.SIG_DFL)
    if os.getpid() != _PROCESS:  # a child that inherited this
        os.kill(os.getpid(), number)
        return
    print("\nterminated; finished results are kept", file=sys.stderr)  # noqa: T201
    sys.exit(128 + number)


def main() -> None:
    """Runs the command line; mistakes of the user end in two lines and an exit code."""
    if os.environ.get("WORLD_SIZE", "1") == "1":  # processes of a launcher wait for each other: they just end
        signal.signal(signal.SIGTERM, _terminate)
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
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        print(f"error: {error.filename} cannot be used: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; finished results are kept", file=sys.stderr)  # noqa: T201
        sys.exit(130)
