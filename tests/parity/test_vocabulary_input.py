"""An exported text head changes its classes without an export, and gives what PyTorch gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clouds_deploy.artifacts import write_manifest, write_text
from clouds_deploy.backends.backends import open_graph, open_session
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.export import export
from clouds_deploy.export.gates import street_images
from clouds_deploy.export.trace import save, to_onnx
from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.names import LABELS, SCORES, SHARE, VOCABULARY
from clouds_deploy.models.clouds.scores import label_and_trust
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter
from clouds_deploy.models.clouds.store import RECIPE, load_run, save_weights
from tests.parity.test_text_head import CONVNEXT, RESNET, model

SIZE = (64, 64)
TOLERANCE = 1e-4  # of the largest score, fp32
CASES = {
    "plain": (CONVNEXT, False),
    "ensemble over ConvNeXt": (CONVNEXT, True),
    "ensemble over ResNet": (RESNET, True),
}


@pytest.fixture(
    scope="module",
    params=[
        name if name == "ensemble over ConvNeXt" else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Segmenter, Path]:
    backbone, ensemble = CASES[request.param]
    torch.manual_seed(3)
    segmenter = build_segmenter(model(backbone, ensemble=ensemble)).eval()
    path = tmp_path_factory.mktemp("graph") / "text.onnx"
    save(to_onnx(segmenter, *SIZE).model, path, {})
    return segmenter, path


def vocabularies(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    own = segmenter.vocabulary
    assert own is not None
    generator = torch.Generator().manual_seed(5)
    extra = F.normalize(torch.randn(1, own.shape[1], own.shape[2], generator=generator), dim=-1)
    other = F.normalize(torch.randn(7, 1, own.shape[2], generator=generator), dim=-1)
    return {
        "its own": own,
        "one class more": torch.cat((own, extra)),
        "one class less": torch.cat((own[:4], own[5:])),
        "seven others, one name each": other,
    }


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_other_classes_without_an_export(exported: tuple[Segmenter, Path], engine: str) -> None:
    segmenter, path = exported
    images = street_images(*SIZE, 2)
    session = open_graph(path, engine)
    names = {spec.name for spec in session.inputs}
    seen = []
    for what, vocabulary in vocabularies(segmenter).items():
        share = torch.linspace(0.2, 0.9, len(vocabulary)) if SHARE in names else None
        with torch.inference_mode():
            graph = SegmenterGraph(segmenter, scores=True)
            labels, scores = graph(torch.from_numpy(images), vocabulary, share)
        feeds = {"image": images, VOCABULARY: vocabulary.numpy()}
        got = session.run(feeds if share is None else {**feeds, SHARE: share.numpy()})
        assert got[SCORES].shape == (2, len(vocabulary), SIZE[0] // 4, SIZE[1] // 4), what
        error = np.abs(got[SCORES] - scores.numpy()).max() / scores.abs().max().item()
        assert error <= TOLERANCE, what
        assert (got[LABELS] == labels.numpy()).mean() >= 0.9999, what
        seen.append(scores.numpy().sum())
    assert len({round(float(value), 3) for value in seen}) == len(seen)  # they are different questions
    session.close()


def test_a_linear_head_has_no_vocabulary(small_bundle: Path) -> None:
    words = Vocabulary(("a", "b"), np.ones((2, 1, 4), np.float32), np.zeros(2, np.float32))
    with pytest.raises(CloudsError, match="linear head"):
        open_session(small_bundle, vocabulary=words)


def test_a_bundle_feeds_its_own_classes_or_others(tmp_path: Path) -> None:

    recipe = Recipe(name="words", model=model(CONVNEXT, ensemble=True))
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(4)
    trained = build_segmenter(recipe.model).eval()
    with torch.no_grad():
        trained.mask_decoder.query_features.mul_(4)
        trained.pixel_decoder.mask_features.weight.mul_(4)
    write_text(run / RECIPE, recipe.to_yaml())
    save_weights(run, trained)
    write_manifest(run, "run", backbone_weights=trained.backbone.weights)
    export(run, out=tmp_path / "bundle", engines=("onnxruntime",), scores=True, height=64, width=64)
    segmenter = load_run(run)[1]
    image = street_images(*SIZE, 1)
    own = open_session(tmp_path / "bundle").run({"image": image})
    with torch.inference_mode():
        labels, scores = SegmenterGraph(segmenter, scores=True)(torch.from_numpy(image))
    assert (own[LABELS] == labels.numpy()).mean() >= 0.9999

    assert segmenter.vocabulary is not None
    vectors = segmenter.vocabulary[:3].numpy()
    words = Vocabulary(("road", "sidewalk", "building"), vectors, np.zeros(3, np.float32))
    words.save(tmp_path / "three.npz")
    three = open_model(tmp_path / "bundle", vocabulary=Vocabulary.load(tmp_path / "three.npz"))
    assert three.predict(image[0]).max() <= 2
    mine, trust = open_model(tmp_path / "bundle").predict_with_trust(image[0])
    assert (mine == labels[0].numpy()).mean() >= 0.9999
    share = label_and_trust(scores)[1][0].numpy()
    coarse = np.asarray(Image.fromarray(trust).resize((SIZE[1] // 4, SIZE[0] // 4), Image.Resampling.BOX))
    assert np.abs(coarse / 255 - share).mean() < 0.02
    wide = Vocabulary(words.names, np.ones((3, 1, 7), np.float32), words.share)
    with pytest.raises(CloudsError, match="vectors of"):
        open_session(tmp_path / "bundle", vocabulary=wide)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: Vocabulary(v.names[:1], v.vectors, v.share), "1 names, 2 rows"),
        (lambda v: Vocabulary(v.names, v.vectors * np.float32(np.nan), v.share), "not finite"),
        (lambda v: Vocabulary(v.names, v.vectors[0], v.share), "not float32"),
        (
            lambda v: Vocabulary(("x",) * 300, np.ones((300, 1, 4), np.float32), np.zeros(300, np.float32)),
            "300 classes",
        ),
    ],
)
def test_bad_files_are_named(tmp_path: Path, damage: object, message: str) -> None:
    good = Vocabulary(("a", "b"), np.ones((2, 1, 4), np.float32), np.zeros(2, np.float32))
    damage(good).save(tmp_path / "words.npz")  # type: ignore[operator]
    with pytest.raises(CloudsError, match=message):
        Vocabulary.load(tmp_path / "words.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for name in ("junk.npz", "absent.npz"):
        with pytest.raises(CloudsError, match=name):
            Vocabulary.load(tmp_path / name)
