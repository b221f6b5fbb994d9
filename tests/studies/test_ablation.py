"""The ablation, shrunk until it says nothing about quality: every row, the table, a second call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.studies.ablation import ROWS, ablate
from tests.training.small import RECIPE

SMALL = ("train.steps=2", "train.eval_every=0", "data.val_images=2")


@pytest.fixture
def recipes(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "warm.yaml").write_text(RECIPE)
    joint = "joint: {generated_images: 3, generated_share: 0.5, refine: {robust: {points: 1}}}\n"
    (tmp_path / "joint.yaml").write_text(RECIPE + joint)
    return {"recipe": str(tmp_path / "warm.yaml"), "joint": str(tmp_path / "joint.yaml")}


def test_every_row_and_again(
    recipes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clouds_deploy.refinement.refiner.online_refiner", lambda recipe, _: _refiner(recipe))
    out = tmp_path / "out"
    given = {**recipes, "out": out, "overrides": SMALL, "seeds": 2, "images": 3, "generated": (1, 2)}
    first = ablate(**given)
    assert [(r["row"], r["generated"]) for r in first["rows"]] == [
        *((row, None) for row in ROWS),
        ("+ generated + refine", 1),
        ("+ generated + refine", 2),
    ]
    assert all(len(r["miou"]) == 2 and r["spread"] >= 0 for r in first["rows"])
    source, _, refined = first["rows"][:3]
    gains = [b - a for a, b in zip(source["miou"], refined["miou"], strict=True)]
    assert first["gains"]["frozen"]["seeds"] == pytest.approx(gains)
    assert first["published"]["ConvNeXt-L"]["+ generated + refine"] == 61.5
    assert len(list((out / "runs").rglob("manifest.json"))) == 2 * 6
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "61.5" in page
    assert "| RN50, published | 50.0 | 50.7 | 53.3 | +3.3 |" in (out / "summary.md").read_text()
    monkeypatch.setattr("clouds_deploy.evaluation.job.evaluate", None)
    assert json.loads(json.dumps(ablate(**given))) == json.loads((out / "ablation.json").read_text())
    with pytest.raises(CloudsError, match="was started with"):
        ablate(**{**given, "overrides": (*SMALL, "train.lr=1e-5")})


def _refiner(recipe: object) -> object:
    joint = recipe.joint  # type: ignore[attr-defined]
    if joint is None or joint.refine is None or joint.pseudo_labels == "off":
        return None
    return lambda images, labels, trust, keys: list(labels)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="no treatment `frosen`"):
        ablate(out=tmp_path / "out", backbones=("frosen",))
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(CloudsError, match="is not an ablation"):
        ablate(out=tmp_path)
