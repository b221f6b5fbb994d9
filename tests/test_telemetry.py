"""No library that reports its use is loaded before it is told not to."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clouds_deploy
from tests.cpp.toy import write_toy

REPORTING = ("onnxruntime", "ray")
PACKAGE = Path(clouds_deploy.__file__).parent
OPEN = {
    "session": "from clouds_deploy.backends.backends import open_session as o; s = o({bundle!r}); s.close()",
    "doctor": "from clouds_deploy.doctor import _onnxruntime as o; print(o())",
    "int8": "from clouds_deploy.telemetry import load_onnxruntime as o; o('onnxruntime.quantization')",
}
WATCH = """
import socket, sys
from pathlib import Path
looked_up = []
socket.getaddrinfo = lambda *a, **k: looked_up.append(a) or []
bundle = Path({bundle!r})
{open}
assert "onnxruntime" in sys.modules and not looked_up, looked_up
"""


def test_only_one_module_imports_them() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
                names += [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
            found = [name for name in names if name.partition(".")[0] in REPORTING]
            assert not found or path.name == "telemetry.py", (path, found)


@pytest.mark.parametrize("way", OPEN)
def test_nothing_is_written_home_and_nobody_looked_up(way: str, tmp_path: Path) -> None:
    """ONNX Runtime 1.31.1 would leave a device's number and a database in the user's cache at once."""
    bundle = str(write_toy(tmp_path / "toy"))
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    script = WATCH.format(bundle=bundle, open=OPEN[way].replace("{bundle!r}", "bundle"))
    done = subprocess.run(
        [sys.executable, "-c", script], env={**kept, "HOME": str(home)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
