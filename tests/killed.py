"""Commands in processes of their own that a signal meets at a moment of the work, rather than of the imports.

`python -m tests.killed [GRAPH]` imports what takes long once, then forks one process for each line that it
reads: a JSON object `{"words": [...], "log": PATH, "after": SECONDS, "signal": NUMBER}`. It answers each with
the exit code (negative for a signal) and the seconds it took. `export` takes `GRAPH` as already traced.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
HEAVY = ("numpy", "PIL.Image", "torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "typer", "rich.console")


class Victims:
    """The process that forks.

    Args:
        graph: A traced graph for `export`, or None.
    """

    def __init__(self, graph: Path | None = None) -> None:
        command = [sys.executable, "-m", "tests.killed", *([str(graph)] if graph else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, words: list[str], log: Path, after: float | None = None, number: int = signal.SIGKILL
    ) -> tuple[int, float]:
        """Run a command; with `after`, send it the signal so many seconds after its start.

        Returns:
            Its exit code, negative where a signal ended it, and the seconds it took.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"words": words, "log": str(log), "after": after, "signal": int(number)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code, seconds = json.loads(self._process.stdout.readline())
        return code, seconds

    def __enter__(self) -> Victims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _work(words: list[str], log: str, graph: str | None) -> None:
    """The forked process: the command line as users start it."""
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if graph is not None and words[0] == "export":
        import onnx_ir

        from clouds_deploy.export import segmenter
        from clouds_deploy.export.trace import Exported

        segmenter.to_onnx = lambda *_, **__: Exported(onnx_ir.load(graph), 0)  # type: ignore[assignment]
    from clouds_deploy.cli import main

    sys.argv = ["clouds-deploy", *words]
    main()


def _fork(order: dict[str, Any], graph: str | None) -> tuple[int, float]:
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _work(order["words"], order["log"], graph)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # as the interpreter would
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if order["after"] is not None:
        time.sleep(order["after"])
        os.kill(
            child, order["signal"]
        )  # a process that has ended is not reaped yet, so its number is its own
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    return os.waitstatus_to_exitcode(status), seconds


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        answer = _fork(json.loads(line), sys.argv[1] if len(sys.argv) > 1 else None)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
