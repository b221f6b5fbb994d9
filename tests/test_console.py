from __future__ import annotations

import time

import pytest

from clouds_deploy.console import busy, console, progress


@pytest.fixture(autouse=True)
def _fresh() -> None:
    console.cache_clear()


def test_quiet_when_short_and_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_one_closing_line_when_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, *([10.0] * 20)])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress("work", 40, "images") as advance:
        advance(40)
    out, err = capsys.readouterr()
    assert out == ""
    assert "40 images in 10 s (4.0 images/s)" in err


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress("work", 4, "images") as advance:
        for done in range(1, 5):
            advance(done, note="loss 1.0")
    assert "work" in capsys.readouterr().err


def test_a_spinner_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with busy("thinking"):
        pass
    assert capsys.readouterr() == ("", "")
    console.cache_clear()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with busy("thinking"):
        pass
    assert "thinking" in capsys.readouterr().err
