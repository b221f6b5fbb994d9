"""Verdicts on engines and machines, and the choice of a GPU: the situations that C++ is held to as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.backends.tensorrt.machine import Machine, choose_card
from clouds_deploy.backends.tensorrt.preflight import judge

SHARED = json.loads(Path(__file__).with_name("engine_situations.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", SHARED["situations"], ids=lambda case: case["name"])
def test_verdict(case: dict[str, Any]) -> None:
    faults, doubts = judge(case["engine"], Machine(**case["machine"]))
    assert [found.code for found in faults] == case["faults"], faults
    assert [found.code for found in doubts] == case["doubts"], doubts
    assert all(found.what and found.fix for found in (*faults, *doubts))


@pytest.mark.parametrize("case", SHARED["cards"], ids=lambda case: case["name"])
def test_card(case: dict[str, Any]) -> None:
    assert choose_card(case["cards"], case["index"], case["pci"], case["environment"]) == case["card"]


def test_there_are_situations_enough() -> None:
    assert len(SHARED["situations"]) >= 40
    assert any(case["faults"] for case in SHARED["situations"])
    assert any(not case["faults"] and not case["doubts"] for case in SHARED["situations"])
