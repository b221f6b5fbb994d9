"""The verb `tune-diffusion`: class images, precisions, crops, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.cli.app import app
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.denoiser import WEIGHTS
from clouds_deploy.generation.lora_run import METRICS
from clouds_deploy.generation.shots import Shots
from clouds_deploy.generation.tune_diffusion import tune_diffusion
from clouds_deploy.generation.tuning import Tuning
from tests.generation.tuning_cases import CLASS_PROMPT, PROMPT, QUICK, child, prepared

pytestmark = pytest.mark.usefixtures("one_thread")


def test_prior_preservation(tiny_diffusion: Path, shots: Path, tmp_path: Path) -> None:
    """With images that the model makes, and the same ones given: the same LoRA, another than without."""
    given: dict[str, Any] = {"prompt": PROMPT, "class_prompt": CLASS_PROMPT, "tuning": QUICK}
    made = tune_diffusion(str(tiny_diffusion), shots, out=tmp_path / "made", class_count=3, **given)
    assert made["class_images"] == 3
    own = tmp_path / "made" / "class" / "images"
    with Image.open(own / "000002.png") as image:
        assert image.size == (48, 32)
        assert json.loads(image.info["clouds_deploy"])["prompt"] == CLASS_PROMPT
    assert read_manifest(tmp_path / "made", "lora")["class_images"] == 3
    tune_diffusion(str(tiny_diffusion), shots, out=tmp_path / "given", class_images=own, **given)
    manifest = read_manifest(tmp_path / "given", "lora")
    assert manifest["inputs"]["class/000001.png"] == sha256(own / "000001.png")
    assert sha256(tmp_path / "given" / WEIGHTS) == sha256(tmp_path / "made" / WEIGHTS)
    line = json.loads((tmp_path / "made" / METRICS).read_text().splitlines()[0])
    assert line["total"] > line["loss"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions(
    precision: str, tuned: Path, tiny_diffusion: Path, shots: Path, tmp_path: Path
) -> None:
    """Frozen weights of 16 bits, a LoRA of 32; losses like those of float32."""
    quick = Tuning(**{**vars(QUICK), "precision": precision})
    tune_diffusion(str(tiny_diffusion), shots, out=tmp_path / "out", prompt=PROMPT, tuning=quick)
    assert {t.dtype for t in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.float32}
    losses = [
        [json.loads(line)["loss"] for line in (run / METRICS).read_text().splitlines()]
        for run in (tuned, tmp_path / "out")
    ]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_saving_memory_changes_nothing(
    tuned: Path, tiny_diffusion: Path, shots: Path, tmp_path: Path
) -> None:
    quick = Tuning(**{**vars(QUICK), "save_memory": True})
    tune_diffusion(str(tiny_diffusion), shots, out=tmp_path / "out", prompt=PROMPT, tuning=quick)
    ours, theirs = load_file(tmp_path / "out" / WEIGHTS), load_file(tuned / WEIGHTS)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_shots_are_cut_everywhere_and_come_equally_often(shots: Path) -> None:
    few = Shots(shots, flip=True)
    few.cut_to((32, 32))
    drawn = [few.draw(i, 0) for i in range(30)]
    assert {tuple(pixels.shape) for pixels, _ in drawn} == {(3, 32, 32)}
    assert len({tuple(told[2:4].tolist()) for _, told in drawn}) > 10
    assert all(told[:2].tolist() == [64, 128] and told[4:].tolist() == [32, 32] for _, told in drawn)
    wide = prepared(shots, (64, 128))  # the whole image, so that it can be told which one it was
    found = [wide.draw(i, 3)[0] for i in range(9)]
    known = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) / 127.5 - 1 for p in wide.paths]
    order = [next(n for n, k in enumerate(known) if torch.allclose(k, f)) for f in found]
    assert [sorted(order[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert torch.equal(few.draw(4, 0)[0], drawn[4][0])
    both = Shots(shots, flip=True)
    both.cut_to((64, 128))
    mirrored = [any(torch.allclose(both.draw(i, 0)[0].flip(2), k) for k in known) for i in range(20)]
    assert 0 < sum(mirrored) < 20


def test_other_pipelines_are_refused(tiny_diffusion: Path, shots: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "out", "prompt": PROMPT, "tuning": QUICK}
    distilled = tmp_path / "distilled"
    shutil.copytree(tiny_diffusion, distilled)
    index = distilled / "model_index.json"
    parts = {"_class_name": "LatentConsistencyModelPipeline", "scheduler": ["diffusers", "LCMScheduler"]}
    index.write_text(json.dumps({**json.loads(index.read_text()), **parts}))
    for more in ({}, {"class_prompt": CLASS_PROMPT}):
        with pytest.raises(CloudsError, match="LatentConsistencyModelPipeline, which cannot be tuned"):
            tune_diffusion(str(distilled), shots, **given, **more)
    odd = tmp_path / "odd"
    shutil.copytree(tiny_diffusion, odd)
    config = odd / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "sample"}))
    with pytest.raises(CloudsError, match="predicts `sample`"):
        tune_diffusion(str(odd), shots, **given)
    with pytest.raises(CloudsError, match="multiples of 2"):
        tune_diffusion(str(tiny_diffusion), shots, **{**given, "tuning": Tuning(height=33)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "streets"}, "takes no LoRA"),
        ({"shots": "nowhere"}, "no folder nowhere"),
        ({"shots": "empty"}, "holds no images"),
        ({"shots": "damaged"}, "bad.png"),
        ({"prompt": " "}, "prompt is empty"),
        ({"class_images": "empty"}, "is missing"),
        ({"class_count": 0}, "1 at least"),
        ({"checkpoint_every": 0}, "1 at least"),
        ({"resume": True}, "no tuning to resume"),
        ({"tuning": Tuning(rank=0)}, "rank 0"),
        ({"tuning": Tuning(lr=0.0)}, "lr 0.0"),
        ({"tuning": Tuning(precision="int8")}, "no precision"),
        ({"model": "empty"}, "cannot be loaded"),
    ],
)
def test_wrong_settings_are_explained(
    changes: dict[str, Any], message: str, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    shutil.copy(shots / "0.png", tmp_path / "damaged" / "good.png")
    (tmp_path / "damaged" / "bad.png").write_bytes((shots / "0.png").read_bytes()[:200])
    given: dict[str, Any] = {"model": "some/model", "shots": shots, "out": "out", "prompt": PROMPT, **changes}
    with pytest.raises(CloudsError) as caught:
        tune_diffusion(given.pop("model"), given.pop("shots"), **given)
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_ends_it(tiny_diffusion: Path, shots: Path, tmp_path: Path) -> None:
    wild = Tuning(**{**vars(QUICK), "lr": 1e30})
    with pytest.raises(CloudsError, match=r"loss is (nan|inf)") as caught:
        tune_diffusion(str(tiny_diffusion), shots, out=tmp_path / "out", prompt=PROMPT, tuning=wild)
    assert caught.value.exit_code == 1


def test_the_verb(tiny_diffusion: Path, shots: Path, tmp_path: Path) -> None:
    words = child(tiny_diffusion, shots, tmp_path / "out")[3:]
    words[words.index("--steps") + 1] = "3"
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "trained on 3 images and 3 class images, 3 steps" in result.output
