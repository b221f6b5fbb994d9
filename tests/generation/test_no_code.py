"""Models of hubs and folders that bring Python code: it is never run, and nobody is asked to allow it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.load_writer import load_writer
from clouds_deploy.generation.painter import load_pipeline

EVIL = "from pathlib import Path\nPath({harm!r}).touch()\nclass Evil: pass\n"


def test_a_language_model_with_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *a: asked.append(a) or "y")
    model, harm = tmp_path / "model", tmp_path / "harm"
    model.mkdir()
    (model / "evil.py").write_text(EVIL.format(harm=str(harm)))
    places = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil"] * 2,
    }
    (model / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": places}))
    (model / "tokenizer_config.json").write_text(json.dumps({"auto_map": places}))
    with pytest.raises(CloudsError, match="brings Python code of its own, which is never run") as caught:
        load_writer(str(model))
    assert "trust_remote_code" not in str(caught.value)
    assert not asked
    assert not harm.exists()
    assert "trust_remote_code" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": ["evil", "Evil"]},
        {"_class_name": "StableDiffusionPipeline", "unet": ["evil", "Evil"]},
    ],
)
def test_a_diffusion_model_with_code(index: dict[str, object], tmp_path: Path) -> None:
    model, harm = tmp_path / "model", tmp_path / "harm"
    (model / "unet").mkdir(parents=True)
    for folder in (model, model / "unet"):
        (folder / "evil.py").write_text(EVIL.format(harm=str(harm)))
    (model / "model_index.json").write_text(json.dumps({"_diffusers_version": "0.30.0", **index}))
    with pytest.raises(CloudsError, match="diffusion model"):
        load_pipeline(str(model), None)
    assert not harm.exists()
