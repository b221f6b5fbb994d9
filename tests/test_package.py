"""What a user installs: the wheel, and the speed of --help."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path | str = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_wheel_carries_the_recipes(tmp_path: Path) -> None:
    """Built, unpacked elsewhere and run from / with none of the checkout on the path."""
    built = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), "."
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, system_site_packages=False)
    python = home / "bin" / "python"
    # the dependencies come from this environment, the package itself only from the wheel
    site = next((home / "lib").glob("python*")) / "site-packages"
    installed = run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)
    )
    assert installed.returncode == 0, installed.stderr
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    code = (
        "import sys; sys.path.append(sys.argv.pop(1)); import clouds_deploy.config.shipped as r; "
        "assert 'venv' in r.__file__, r.__file__; from clouds_deploy.cli import main; main()"
    )
    listed = run(str(python), "-c", code, str(here), "recipes", "ls", cwd="/")
    assert listed.returncode == 0, listed.stderr
    assert "tiny " in listed.stdout
    assert "gta_convnext_l " in listed.stdout
    shown = run(str(python), "-c", code, str(here), "recipes", "cat", "export/sam", cwd="/")
    assert shown.returncode == 0, shown.stderr
    assert "islands:" in shown.stdout


def test_sdist_builds_and_holds_no_data(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), ".")
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    for recipe in ("training/recipes/tiny.yaml", "export/recipes/segmenter.yaml"):
        assert any(name.endswith(recipe) for name in names)
    assert not any(".venv" in name for name in names)


def test_help_is_quick() -> None:
    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        assert run(sys.executable, *arguments).returncode == 0
        return time.perf_counter() - start

    seconds("-m", "clouds_deploy", "--help")  # bytecode is compiled once
    extra = min(seconds("-m", "clouds_deploy", "--help") for _ in range(4)) - min(
        seconds("-c", "pass") for _ in range(4)
    )
    assert extra <= 0.5


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'onnx', 'pydantic')"
    code = f"import sys, clouds_deploy.cli; print([m for m in {heavy} if m in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


def test_a_verb_stays_callable_once_the_module_of_its_name_is_imported() -> None:
    code = """
import clouds_deploy
verbs = "doctor", "export", "bench"
for _ in range(2):
    assert all(callable(getattr(clouds_deploy, verb)) for verb in verbs)
try:
    clouds_deploy.export("runs/missing", out="out")
except clouds_deploy.CloudsError as error:
    assert "runs/missing" in error.message
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
