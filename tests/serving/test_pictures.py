"""`/v1` over HTTP: what comes back equals what the library computes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.data.overlay import overlay, shares
from clouds_deploy.inference.segmenter import Segmenter, open_model
from clouds_deploy.labels import NAMES
from tests.refinement.fakes import scene
from tests.serving.live import Live, live, picture_of, png, refused


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle) as running:
        yield running


@pytest.fixture(scope="module")
def direct(small_bundle: Path) -> Segmenter:
    return open_model(small_bundle)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (9, 16, 3)).repeat(11, 0).repeat(9, 1).astype(np.uint8)


def test_labels(served: Live, direct: Segmenter, photo: np.ndarray) -> None:
    response = served.post("/v1/segment", photo)
    assert response.headers["content-type"] == "image/png"
    assert np.array_equal(picture_of(response), direct.predict(photo))
    laps = response.headers["server-timing"]
    assert all(
        name in laps for name in ("decode;dur=", "queue;dur=", "engine;dur=", "total;dur=", "batch;dur=1")
    )


def test_overlay(served: Live, direct: Segmenter, photo: np.ndarray) -> None:
    response = served.post("/v1/segment?as=overlay", photo)
    assert response.headers["content-type"] == "image/jpeg"
    expected = overlay(photo, direct.predict(photo))
    assert np.abs(picture_of(response).astype(int) - expected).mean() < 6  # JPEG


def test_shares(served: Live, direct: Segmenter, photo: np.ndarray) -> None:
    told = served.post("/v1/segment?as=json", photo).json()
    assert (told["height"], told["width"]) == photo.shape[:2]
    expected = shares(direct.predict(photo))
    assert [(c["id"], c["name"]) for c in told["classes"]] == [(i, NAMES[i]) for i, _ in expected]
    assert [c["share"] for c in told["classes"]] == pytest.approx([share for _, share in expected], abs=1e-6)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("image/jpeg;q=0.9, */*", "image/jpeg"),
        ("text/html, image/*", "image/png"),
        ("*/*", "image/png"),
    ],
)
def test_accept(served: Live, photo: np.ndarray, accept: str, kind: str) -> None:
    files = {"image": png(photo)}
    response = served.http.post("/v1/segment", files=files, headers={"Accept": accept})
    assert response.headers["content-type"] == kind
    refused(served.http.post("/v1/segment", files=files, headers={"Accept": "text/html"}), 406, "text/html")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_formats(served: Live, direct: Segmenter, photo: np.ndarray, kind: str) -> None:
    data = png(photo, kind, **({"lossless": True} if kind == "WEBP" else {}))
    seen = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(picture_of(served.post("/v1/segment", data)), direct.predict(seen))


def test_other_formats_are_not_even_tried(served: Live, photo: np.ndarray) -> None:
    refused(served.post("/v1/segment", png(photo, "GIF")), 422, "not an image")
    refused(
        served.post("/v1/segment", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 422, "not an image"
    )


def test_a_turned_photo(served: Live, direct: Segmenter, photo: np.ndarray) -> None:
    """Phones write pictures lying on their side, and say so in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(photo, exif=exif)
    upright = np.rot90(photo, -1)
    labels = picture_of(served.post("/v1/segment", data))
    assert np.array_equal(labels, direct.predict(np.ascontiguousarray(upright)))
    assert picture_of(served.post("/v1/refine", data)).shape == upright.shape[:2]
    refused(served.post("/v1/refine", data, labels=np.zeros(photo.shape[:2], np.uint8)), 422, "differ")


def test_refine(served: Live, direct: Segmenter, photo: np.ndarray) -> None:
    """The callable that `api` hands in gets image and labels, and its answer goes out."""
    labels = np.full(photo.shape[:2], 13, np.uint8)
    labels[:5] = 255
    mended = picture_of(served.post("/v1/refine", photo, labels=labels))
    assert set(np.unique(mended[:5])) == {0}
    assert set(np.unique(mended[5:])) == {13}
    assert np.array_equal(picture_of(served.post("/v1/refine", photo)), direct.predict(photo))


def test_points(served: Live) -> None:
    image, labels = scene(1)
    assert served.sam is not None
    before = len(served.sam.embedded)
    y, x = np.argwhere(labels == labels[50, 5])[40]
    colour = image[y, x]
    response = served.post("/v1/points", image, points=json.dumps([[int(x), int(y), 1], [0, 0, 0]]))
    expected = (image == colour).all(-1)
    assert np.array_equal(picture_of(response), np.where(expected, 255, 0))
    assert response.headers["x-mask"] == f"iou=0.9, share={round(float(expected.mean()), 6)}"
    response = served.post("/v1/points?as=json", image, points=json.dumps([[int(x), int(y), 1]]))
    told = response.json()
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["mask_png"]))))
    assert np.array_equal(mask > 0, expected)
    assert (told["iou"], told["sam"]) == (0.9, "colours")
    assert len(served.sam.embedded) == before + 1  # the second click met a known image


def test_what_is_remembered_is_bounded(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clouds_deploy.serving.promptable.REMEMBERED", 2 * 64 * 64 * 4)
    with live(small_bundle) as running:
        assert running.sam is not None
        for seed in (1, 2, 1, 3, 1, 2):
            assert running.post("/v1/points", scene(seed)[0], points="[[5, 5, 1]]").status_code == 200
        assert len(running.sam.embedded) - 1 == 4  # 1, 2, 3, and 2 again: 1 stayed, being asked for


BAD_POINTS = [
    ("", "not JSON"),
    ("{}", "no list"),
    ("[]", "holds 0"),
    ("[[1, 2]]", "no list"),
    ("[[1, 2, 3]]", "no list"),
    ("[[1, NaN, 1]]", "no list"),
    ('[["1", 2, 1]]', "no list"),
    ("[[1e300, 2, 1]]", "no list"),
    ("[[1, 2, 0]]", "no point is on"),
    ("[[64, 2, 1]]", "outside"),
    ("[[2, -1, 1]]", "outside"),
    (json.dumps([[1, 2, 1]] * 65), "holds 65"),
    ("[" * 60000, "not JSON"),
]


@pytest.mark.parametrize(("points", "word"), BAD_POINTS)
def test_bad_points(served: Live, points: str, word: str) -> None:
    refused(served.post("/v1/points", scene(1)[0], points=points), 422, word)


def test_bad_uploads(served: Live, photo: np.ndarray) -> None:
    refused(served.post("/v1/segment", other=photo), 422, "no file `image`")
    refused(served.post("/v1/segment", b""), 422, "not an image")
    refused(served.post("/v1/segment", png(photo)[:-40]), 422, "damaged")
    refused(served.post("/v1/points", photo), 422, "no field `points`")
    refused(served.http.post("/v1/segment", content=png(photo)), 415, "of no type")
    refused(served.http.post("/v1/segment", json={}), 415, "application/json")
    broken = {"Content-Type": "multipart/form-data"}
    refused(served.http.post("/v1/segment", content=b"x", headers=broken), 400, "form")
    many = [("image", png(photo))] * 20
    refused(served.http.post("/v1/segment", files=many), 400, "form")
    refused(served.post("/v1/segment?as=poem", photo), 406, "poem")
    strange = np.full(photo.shape[:2], 33, np.uint8)
    refused(served.post("/v1/refine", photo, labels=strange), 422, "33")
    refused(served.post("/v1/refine", photo, labels=photo), 422, "colour picture")
    refused(served.post("/v1/refine", photo, labels=strange[1:] * 0), 422, "differ")
    refused(served.http.get("/v1/segment"), 405, "Method Not Allowed")
    refused(served.http.get("/v1/nothing"), 404, "Not Found")


def test_without_a_sam(small_bundle: Path, photo: np.ndarray) -> None:
    with live(small_bundle, sam=False) as running:
        assert running.http.get("/v1/model").json()["sam"] is None
        refused(running.post("/v1/points", photo, points="[[1, 1, 1]]"), 404, "no SAM")
        refused(running.post("/v1/refine", photo), 404, "no SAM")


def test_what_the_page_asks_first(served: Live, small_bundle: Path) -> None:
    told = served.http.get("/v1/model").json()
    assert (told["height"], told["width"], told["sam"]) == (64, 128, "colours")
    assert [c["name"] for c in told["classes"]] == list(NAMES)
    with np.load(small_bundle / "reference.npz") as reference:
        assert np.array_equal(picture_of(served.http.get("/v1/example")), reference["image"][0])


def test_a_fault_of_ours_tells_nothing(small_bundle: Path, photo: np.ndarray) -> None:
    def broken(*_: object) -> np.ndarray:
        raise RuntimeError("secret")

    with live(small_bundle, refine=broken) as running:
        response = running.post("/v1/refine", photo)
        refused(response, 500, "failed")
        assert "secret" not in response.text
        assert running.post("/v1/segment", photo).status_code == 200
