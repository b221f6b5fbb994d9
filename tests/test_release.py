"""What stands beside the code: workflows that call the Makefile, forms, citation; slowly, a whole release."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documented import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_the_makefile(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    targets = []
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        assert "permissions" not in job
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step
            else:
                assert "${{" not in step["run"]
                targets += re.findall(r"^make (\S+)", step["run"])
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_matrix_is_what_the_package_supports() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text("utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.10,<3.14"' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.github-issue-forms", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))),
        ("vendor.dependabot", [ROOT / ".github" / "dependabot.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
        ("vendor.compose-spec", [ROOT / "containers" / "compose.yaml"]),
    ],
)
def test_files_follow_their_schema(schema: str, files: list[Path]) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    if schema.startswith("vendor.citation"):
        command += ["--default-filetype", "yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_page_installs_from_an_index_that_does_not_have_it() -> None:
    shown = (ROOT / "README.md").read_text("utf-8")
    assert not re.search(r"pip install [\"']?clouds[-_]deploy", shown)


def test_pins_have_hashes_and_licences(tmp_path: Path) -> None:
    def package(name: str, **about: object) -> dict[str, object]:
        info = {"archive_info": {"hashes": {"sha256": name[0] * 64}}}
        return {"metadata": {"name": name, "version": "1.0", **about}, "download_info": info}

    report = tmp_path / "report.json"
    packages = [
        package("Zeta_b", license_expression="MIT"),
        package("clouds-deploy"),
        package("alpha", classifier=["License :: OSI Approved :: BSD License", "Typing :: Typed"]),
        package("old", license="Apache 2\nmore"),
        package("none"),
    ]
    report.write_text(json.dumps({"install": packages}))
    subprocess.run([sys.executable, ROOT / ".ci" / "pins", report, tmp_path], check=True)
    assert (tmp_path / "requirements.txt").read_text().splitlines() == [
        f"{name}==1.0 --hash=sha256:{letter * 64}"
        for name, letter in (("alpha", "a"), ("none", "n"), ("old", "o"), ("zeta-b", "Z"))
    ]
    assert (tmp_path / "licences.txt").read_text().splitlines() == [
        "alpha 1.0: BSD License",
        "none 1.0: not stated",
        "old 1.0: Apache 2",
        "zeta-b 1.0: MIT",
    ]


@pytest.mark.slow
def test_a_release(tmp_path: Path) -> None:
    """`make release` in a clone, so that this checkout's dist/ stays."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    done = subprocess.run(
        ["make", "release", f"PYTHON={sys.executable}"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made = {path.suffix for path in (clone / "dist").iterdir()}
    assert {".whl", ".gz", ".json"} <= made
    bill = json.loads((clone / "dist" / "sbom.cdx.json").read_text("utf-8"))
    assert "onnxruntime" in {part["name"] for part in bill["components"]}
