"""Verbs are commands and functions, and start without what only some of them need."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer.core
import typer.main
from typer.testing import CliRunner

import clouds_deploy
from clouds_deploy.cli import app
from clouds_deploy.cli.options import chosen_precision
from clouds_deploy.errors import CloudsError, missing_package

FUNCTIONS = {"import": "import_checkpoint", "data": "data_check"}
"""Names of functions that differ from their commands'."""
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
REFUSED = "torch torchvision timm open_clip onnx onnxscript transformers diffusers segment_anything scipy"
CODE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {REFUSED.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from clouds_deploy.cli import app, main
"""


def refusing(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CODE + code, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


def test_commands_and_functions_are_one_to_one() -> None:
    named = {FUNCTIONS.get(name, name.replace("-", "_")) for name in COMMANDS}
    verbs = set(clouds_deploy._VERBS)
    assert verbs - named == {"embed_classes"}  # other classes for a bundle: an .npz that only code can load
    assert named <= verbs
    assert verbs <= set(dir(clouds_deploy))
    for name in verbs:
        assert callable(getattr(clouds_deploy, name)), name
    assert "tiny" in clouds_deploy.recipes()["recipes"]


def test_help_needs_no_torch_and_explains_everything() -> None:
    """All commands' --help in one process that refuses to import what only some verbs need."""
    code = """
import contextlib, io
for name in [None, *sys.argv[1:]]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        app([*([name] if name else []), "--help"])
    assert "Usage: " in out.getvalue(), name
"""
    done = refusing(code, *COMMANDS)
    assert done.returncode == 0, done.stderr


def test_recipes_need_no_torch() -> None:
    done = refusing("main()", "recipes", "ls")
    assert done.returncode == 0, done.stderr
    assert "tiny " in done.stdout


def test_a_missing_package_is_named_with_its_extra(tmp_path: object) -> None:
    done = refusing("main()", "train", "tiny", "--out", f"{tmp_path}/run")
    assert done.returncode == 2
    error, hint = done.stderr.strip().splitlines()[-2:]
    assert re.search("needs the Python package `(torch|scipy)`, which is not installed", error)
    assert hint.strip() == 'hint: pip install "clouds-deploy[train]"'
    assert isinstance(missing_package(ModuleNotFoundError(name="av")), CloudsError)
    assert missing_package(ModuleNotFoundError(name="clouds_deploy.nothing")) is None


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_long_help_is_grouped(name: str) -> None:
    command = COMMANDS[name]
    for one in getattr(command, "commands", {name: command}).values():
        assert one.help
        options = [p for p in one.params if not isinstance(p, typer.core.TyperArgument)]
        assert all(p.help for p in one.params if p.name != "help"), name
        alone = [p for p in options if getattr(p, "rich_help_panel", None) is None]
        assert len(alone) <= 10, name
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_precision_has_two_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen_precision("fp32", False) == "fp32"
    assert chosen_precision("fp32", True) == "bf16"
    assert "--precision bf16" in capsys.readouterr().err
