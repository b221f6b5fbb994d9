"""Output on the terminal: few lines, one live progress bar, almost nothing if it is not a terminal.

Everything for people goes to standard error through one console; standard output carries results only, so
that `--json` can promise that its last line is one JSON object.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from clouds_deploy.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache(maxsize=1)
def console() -> Console:
    """The one console, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Prints one line for people; rich markup is interpreted, so escape foreign text."""
    console().print(printable(text))


def warn(text: str) -> None:
    """Prints one line as a warning."""
    console().print(f"[yellow]warning:[/] {printable(text)}")


class Advance(Protocol):
    """Callback that reports progress."""

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None:
        """Reports the amount done, a note about it, and the total if it became known late."""


@contextmanager
def progress(what: str, total: int, unit: str = "it") -> Iterator[Advance]:
    """Shows the progress of work that may last over two seconds: rate and time left.

    On a terminal a live bar; elsewhere only one closing line if it took over two seconds.

    Args:
        what: The work, in a word or two.
        total: Amount of work, in `unit`s.
        unit: Name of what is counted, for the rate.

    Yields:
        A function to call with the amount done so far.
    """
    start = time.monotonic()
    state = {"done": 0, "first": -1}

    def rate() -> str:
        seconds = max(time.monotonic() - start, 1e-9)
        return f"{(state['done'] - max(state['first'], 0)) / seconds:.1f} {unit}/s"

    def count(done: int) -> None:
        if state["first"] < 0:
            state["first"] = done if done > 1 and total > done else 0
        state["done"] = done

    if not console().is_terminal:

        def quiet(done: int, note: str = "", total: int | None = None) -> None:
            count(done)

        yield quiet
    else:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rate]:>12}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console(),
            transient=True,
        ) as bar:
            shown = {"note": ""}
            task = bar.add_task(what, total=total, rate="", note="")

            def live(done: int, note: str = "", total: int | None = None) -> None:
                count(done)
                shown["note"] = note or shown["note"]
                bar.update(task, completed=done, total=total, rate=rate(), note=shown["note"])

            yield live
    seconds = time.monotonic() - start
    if seconds > 2.0:
        say(f"  {what:<12} {state['done']} {unit} in {seconds:.0f} s ({rate()})")


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows a spinner with the time passed, on a terminal, during work of unknown progress.

    Args:
        what: The work, in a few words.
    """
    if not console().is_terminal:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(), transient=True) as live:
        live.add_task(what, total=None)
        yield
