"""Verbs are commands and functions, and explain themselves."""

from __future__ import annotations

import pytest
import typer.core
import typer.main
from typer.testing import CliRunner

import clouds_deploy
from clouds_deploy.cli import app
from clouds_deploy.cli.options import chosen_precision
from clouds_deploy.errors import missing_package

FUNCTIONS = {"import": "import_checkpoint", "data": "data_check", "engine": "engine_build"}
"""Names of functions that differ from their commands'."""
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_commands_and_functions_are_one_to_one() -> None:
    named = {FUNCTIONS.get(name, name.replace("-", "_")) for name in COMMANDS}
    verbs = set(clouds_deploy._VERBS)
    others = {f"engine_{what}" for what in ("add", "command", "list", "remove")}
    assert verbs - named - others == {"embed_classes"}  # other classes for a bundle, from code only
    assert others <= verbs
    assert named <= verbs
    assert verbs <= set(dir(clouds_deploy))
    for name in verbs:
        assert callable(getattr(clouds_deploy, name)), name
    assert "tiny" in clouds_deploy.recipes()["recipes"]


def test_a_missing_package_is_named_with_its_extra() -> None:
    found = missing_package(ModuleNotFoundError(name="torch.nn"))
    assert found is not None
    assert (found.message.split("`")[1], found.hint) == ("torch", 'pip install "clouds-deploy[train]"')
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
