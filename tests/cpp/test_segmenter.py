"""The C++ segmenter against the Python one on the same bundle: equal bytes, from any number of threads."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.data.images import read_image
from clouds_deploy.export.gates import street_images
from clouds_deploy.inference.segmenter import open_model
from tests.cpp import builder
from tests.cpp.corpus import write_corpus
from tests.cpp.toy import HEIGHT, WIDTH, write_toy

SIZES = ((64, 128), (100, 130), (48, 300), (333, 77), (129, 257))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn streets of several sizes, in a folder and a folder inside it."""
    folder = tmp_path_factory.mktemp("streets")
    (folder / "more").mkdir()
    for i, size in enumerate(SIZES):
        image = street_images(*(side + side % 2 for side in size), 1, seed=i)[0][: size[0], : size[1]]
        Image.fromarray(image).save(folder / ("more" if i % 2 else "") / f"street{i}.png")
    return folder


def test_the_sample_labels_as_python_does(
    cpp_build: Path, small_bundle: Path, streets: Path, tmp_path: Path
) -> None:
    sample = cpp_build / "clouds_segment"
    if not sample.is_file():
        pytest.skip("no libpng: the sample was not built")
    text = builder.succeed([str(sample), str(small_bundle), str(streets), "--out", str(tmp_path / "out")])
    assert f"{len(SIZES)} of {len(SIZES)} images labelled" in text
    python = open_model(small_bundle, backend="openvino")
    seen: set[int] = set()
    for path in sorted(streets.rglob("*.png")):
        image = read_image(path)
        name = path.relative_to(streets)
        labels = np.asarray(Image.open(tmp_path / "out" / "labels" / name))
        want = python.predict(image)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, want), name
        seen |= set(np.unique(want).tolist())
        overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / name))
        assert np.array_equal(overlay, _overlay(image, labels, small_bundle))
    assert len(seen) > 1  # one class everywhere would prove nothing


def _overlay(image: np.ndarray, labels: np.ndarray, bundle: Path) -> np.ndarray:
    from clouds_deploy.data.overlay import overlay
    from clouds_deploy.labels import CLASSES

    assert json.loads((bundle / "bundle.json").read_text())["palette"] == [list(c.color) for c in CLASSES]
    return overlay(image, labels)


def test_every_backend_agrees_with_its_python_session(
    library: Any, binding: Any, small_bundle: Path, streets: Path
) -> None:
    for backend in library.clouds_backends().decode().split():
        if backend.startswith("tensorrt"):
            continue
        python = open_model(small_bundle, backend=backend)
        with binding.Segmenter(library, small_bundle, backend=backend) as segmenter:
            assert segmenter.backend == backend
            for path in sorted(streets.rglob("*.png")):
                image = read_image(path)
                assert np.array_equal(segmenter.segment(image), python.predict(image)), (backend, path.name)


def test_what_claims_to_be_huge_is_refused_before_it_is_decoded(
    cpp_build: Path, toy: Path, tmp_path: Path
) -> None:
    sample = cpp_build / "clouds_segment"
    if not sample.is_file():
        pytest.skip("no libpng: the sample was not built")
    folder = tmp_path / "in"
    folder.mkdir()

    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
        return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")

    (folder / "wide.png").write_bytes(png(50_000, 50_000))
    (folder / "hollow.png").write_bytes(png(20_000, 20_000))  # 1.2 GB that these bytes cannot hold
    whole = png(4, 4)
    claims = whole[:33] + struct.pack(">I", 0x2E00_0000) + b"eXIfMM\0*" + whole[33:]  # found by a fuzzer
    (folder / "claims.png").write_bytes(claims)
    (folder / "claim.ppm").write_bytes(b"P6 99999 99999 255\n")
    jpeg = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(jpeg, "JPEG")
    at = jpeg.getvalue().index(b"\xff\xc0") + 5
    (folder / "tall.jpg").write_bytes(
        jpeg.getvalue()[:at] + struct.pack(">HH", 65_000, 65_000) + jpeg.getvalue()[at + 4 :]
    )
    os.mkfifo(folder / "pipe.png")
    code, text, most = builder.run_measured(
        [str(sample), str(toy), str(folder), "--out", str(tmp_path / "out")]
    )
    assert code == 1, text
    assert most < 500
    for name, why in {
        "wide.png": "is too large: 50000x50000 pixels; at most 500 million are read",
        "hollow.png": "is a damaged image: it ends too early",
        "claims.png": "is a damaged image: it ends too early",
        "claim.ppm": "is too large: 99999x99999 pixels",
        "tall.jpg": "is too large: 65000x65000 pixels",
    }.items():
        jpegs = "is a JPEG file, and this build reads none"
        assert any(f"{folder / name} {what}" in text for what in (why, jpegs)), text


def test_onnx_runtime_tells_nobody(library: Any, cpp_build: Path, toy: Path, tmp_path: Path) -> None:
    if b"onnxruntime" not in library.clouds_backends():
        pytest.skip("this build has no ONNX Runtime (give ONNXRUNTIME_ROOT in CLOUDS_CPP_CMAKE_ARGS)")
    for telemetry in (None, "0"):
        home = tmp_path / str(telemetry)
        home.mkdir()
        places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"), str(home))
        environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | places
        if telemetry is not None:  # as the caller wants; shows that the folder is where it would write
            environment["ORT_DISABLE_TELEMETRY"] = telemetry
        command = [str(cpp_build / "clouds_selftest"), str(toy), "--backend", "onnxruntime"]
        builder.succeed(command, env=environment)
        left = [path for path in home.rglob("*") if path.is_file()]
        if telemetry is None:
            assert left == []
        elif not left:
            pytest.skip("this ONNX Runtime has no telemetry")


def test_files_of_many_kinds(cpp_build: Path, toy: Path, tmp_path: Path) -> None:
    sample = cpp_build / "clouds_segment"
    if not sample.is_file():
        pytest.skip("no libpng: the sample was not built")
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (40, 70, 3)).astype(np.uint8)
    grey = Image.fromarray(image[..., 0].copy())
    folder = tmp_path / "in"
    folder.mkdir()
    grey.save(folder / "grey.png")
    Image.fromarray(image).convert("P").save(folder / "palette.png")
    Image.fromarray(np.dstack([image, image[..., :1]])).save(folder / "alpha.png")
    Image.fromarray(image[..., 0].astype(np.uint16) * 250).save(folder / "deep.png")
    Image.fromarray(image).save(folder / "plain.ppm")
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(image).save(folder / f"turned{turn}.png", exif=exif)
    (folder / ".hidden.png").write_bytes(b"half a file")
    builder.succeed([str(sample), str(toy), str(folder), "--out", str(tmp_path / "out"), "--no-overlays"])
    python = open_model(toy, backend="openvino")
    made = sorted((tmp_path / "out" / "labels").iterdir())
    assert len(made) == 13
    assert not (tmp_path / "out" / "overlays").exists()
    for path in made:
        source = next(p for p in folder.iterdir() if p.stem == path.stem)
        assert np.array_equal(np.asarray(Image.open(path)), python.predict(read_image(source))), path.name


def test_a_damaged_file_is_named_and_the_rest_is_labelled(cpp_build: Path, toy: Path, tmp_path: Path) -> None:
    sample = cpp_build / "clouds_segment"
    if not sample.is_file():
        pytest.skip("no libpng: the sample was not built")
    image = Image.fromarray(np.zeros((40, 70, 3), np.uint8))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("whole.png", "torn.png", "whole.jpg", "torn.jpg"):
        image.save(folder / name)
    for name in ("torn.png", "torn.jpg"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
    (folder / "text.png").write_text("no image")
    done = builder.run([str(sample), str(toy), str(folder), "--out", str(tmp_path / "out")])
    assert done.returncode == 1
    for name in ("torn.png", "torn.jpg", "text.png"):
        assert str(folder / name) in done.stderr
    assert "3 of 5 images labelled" not in done.stdout
    assert (
        "2 of 5 images labelled" in done.stdout or "is a JPEG file, and this build reads none" in done.stderr
    )
    for wrong in (["--out"], ["--what", "x"], [], [str(toy)]):
        assert builder.run([str(sample), *wrong]).returncode == 2
    missing = builder.run([str(sample), str(toy), str(tmp_path / "none"), "--out", str(tmp_path / "o")])
    assert (missing.returncode, "there is no file or folder" in missing.stderr) == (2, True)


def test_views_with_strides_and_batches(library: Any, binding: Any, toy: Path) -> None:
    rng = np.random.default_rng(3)
    python = open_model(toy, backend="openvino")
    large = rng.integers(0, 256, (90, 200, 3)).astype(np.uint8)
    with binding.Segmenter(library, toy) as segmenter:
        assert (segmenter.height, segmenter.width) == (HEIGHT, WIDTH)
        assert segmenter.classes[0] == "road"
        crop = large[10:70, 20:120]  # rows lie apart
        out = np.full((60, 150), 77, np.uint8)
        segmenter.segment(crop, out[:, 25:125])
        assert np.array_equal(out[:, 25:125], python.predict(crop))
        assert (out[:, :25] == 77).all()
        assert (out[:, 125:] == 77).all()
        images = [large[: 20 + 9 * i, : 40 + 7 * i] for i in range(5)]
        for got, image in zip(segmenter.segment_batch(images), images, strict=True):
            assert np.array_equal(got, python.predict(image))
        stacked = rng.integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)
        for got, image in zip(segmenter.segment_batch(list(stacked)), stacked, strict=True):
            assert np.array_equal(got, python.predict(image))
        assert segmenter.self_test() == (1.0, 0.9999)


def test_trust_equals_python(library: Any, binding: Any, tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", scores=True)
    python = open_model(bundle, backend="openvino")
    rng = np.random.default_rng(5)
    with binding.Segmenter(library, bundle) as segmenter:
        for size in ((HEIGHT, WIDTH), (50, 70), (64, 40), (90, 300)):
            image = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3)).astype(np.uint8)
            image = image.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]]
            trust = np.empty(size, np.uint8)
            labels = segmenter.segment(image, trust=trust)
            want, want_trust = python.predict_with_trust(image)
            assert np.array_equal(labels, want)
            assert np.array_equal(trust, want_trust), np.abs(trust.astype(int) - want_trust).max()
            assert len(np.unique(trust)) > 3


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_weights_beside_the_graph(library: Any, binding: Any, tmp_path: Path, backend: str) -> None:
    """As a graph over 2 GB has them."""
    if backend not in library.clouds_backends().decode().split():
        pytest.skip(f"the library was built without {backend}")
    bundle = write_toy(tmp_path / "bundle", beside=True)
    assert (bundle / "segmenter.onnx.data").stat().st_size > 0
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with binding.Segmenter(library, bundle, backend=backend) as segmenter:
        assert np.array_equal(segmenter.segment(image), open_model(bundle, backend=backend).predict(image))
    (bundle / "segmenter.onnx.data").unlink()
    with pytest.raises(binding.Refused, match=r"segmenter\.onnx\.data"):
        binding.Segmenter(library, bundle, backend=backend)


def test_no_scores_no_trust(library: Any, binding: Any, toy: Path) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with binding.Segmenter(library, toy) as segmenter, pytest.raises(binding.Refused) as caught:
        segmenter.segment(image, trust=np.empty((HEIGHT, WIDTH), np.uint8))
    assert caught.value.message == f"{toy} gives labels only"
    assert caught.value.hint == "export it with --scores, or give the run"


def test_a_text_head_takes_its_vocabulary_or_another(library: Any, binding: Any, tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", text=True)
    image = np.random.default_rng(6).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    other = Vocabulary(
        ("a", "b"),
        np.array([[[1, 0, 0], [1, 0.5, 0]], [[0, 1, -1], [0, 1, 0]]], np.float32),
        np.array([0.5, 0], np.float32),
    )
    other.save(tmp_path / "other.npz")
    with binding.Segmenter(library, bundle) as segmenter:
        assert len(segmenter.classes) == 19
        assert np.array_equal(segmenter.segment(image), open_model(bundle, backend="openvino").predict(image))
        assert segmenter.self_test()[0] == 1
    with binding.Segmenter(library, bundle, vocabulary=str(tmp_path / "other.npz")) as segmenter:
        assert segmenter.classes == ["a", "b"]
        want = open_model(bundle, backend="openvino", vocabulary=other).predict(image)
        assert np.array_equal(segmenter.segment(image), want)
        assert len(np.unique(want)) == 2
    linear = write_toy(tmp_path / "linear")
    with pytest.raises(binding.Refused) as caught:
        binding.Segmenter(library, linear, vocabulary=str(tmp_path / "other.npz"))
    assert "has the linear head, whose classes are fixed" in caught.value.message


@pytest.mark.parametrize("requests", [0, 2])
def test_threads_share_a_segmenter(library: Any, binding: Any, toy: Path, requests: int) -> None:
    rng = np.random.default_rng(7)
    images = [rng.integers(0, 256, (20 + 11 * i, 90 - 9 * i, 3)).astype(np.uint8) for i in range(8)]
    python = open_model(toy, backend="openvino")
    want = [python.predict(image) for image in images]
    with binding.Segmenter(library, toy, threads=1, requests=requests) as segmenter:

        def work(number: int) -> bool:
            image = number % len(images)
            return all(np.array_equal(segmenter.segment(images[image]), want[image]) for _ in range(20))

        with ThreadPoolExecutor(8) as pool:  # ctypes lets go of the interpreter's lock
            assert all(pool.map(work, range(16)))


def test_the_queue_calls_back_and_pushes_back(library: Any, binding: Any, toy: Path) -> None:
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (30, HEIGHT, WIDTH, 3)).astype(np.uint8)
    labels = np.full((30, HEIGHT, WIDTH), 99, np.uint8)
    gate, entered, statuses = threading.Event(), threading.Event(), []

    def done(_: object, status: int, message: bytes, hint: bytes) -> None:
        entered.set()
        gate.wait(30)
        statuses.append((status, message, hint))

    callback = binding.DONE(done)
    segmenter = binding.Segmenter(library, toy, workers=1, queue=2)
    segmenter.submit(images[0], labels[0], callback)
    assert entered.wait(30)  # the worker is held in the callback
    segmenter.submit(images[1], labels[1], callback, wait=False)
    segmenter.submit(images[2], labels[2], callback, wait=False)
    with pytest.raises(binding.Refused) as caught:
        segmenter.submit(images[3], labels[3], callback, wait=False)
    assert caught.value.status == binding.FULL
    assert (labels[3] == 99).all()
    gate.set()
    for i in range(3, 30):
        segmenter.submit(images[i], labels[i], callback)
    segmenter.close()  # waits
    assert statuses == 30 * [(0, b"", b"")]
    python = open_model(toy, backend="openvino")
    assert all(np.array_equal(labels[i], python.predict(images[i])) for i in range(30))


def test_the_c_api_survives_what_it_is_given(library: Any, binding: Any, toy: Path) -> None:
    import ctypes

    handle = ctypes.c_void_p()
    assert library.clouds_segmenter_open(None, None, ctypes.byref(handle)) == binding.REFUSED
    assert library.clouds_segmenter_open(str(toy).encode(), None, None) == binding.REFUSED
    assert library.clouds_segment(None, None, None, None, 1) == binding.REFUSED
    assert library.clouds_message() == b"segmenter is null"
    library.clouds_segmenter_close(None)
    library.clouds_options_default(None)
    assert library.clouds_segmenter_classes(None) == 0
    options = binding.Options()
    assert library.clouds_segmenter_open(str(toy).encode(), ctypes.byref(options), ctypes.byref(handle)) == 1
    assert b"options of 0 bytes" in library.clouds_message()
    with pytest.raises(binding.Refused, match="no precision `f64`"):
        binding.Segmenter(library, toy, precision="f64")
    with binding.Segmenter(library, toy) as segmenter:
        assert library.clouds_segmenter_class(segmenter._handle, 19) is None
        assert library.clouds_segment(segmenter._handle, None, None, None, 0) == binding.OK
        for stride in (2**63 - 1, -(2**63), 2**40):  # would be read far outside of the image
            image, out = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
            view, map_ = binding.Image(image.ctypes.data, 4, 4, stride, 0), binding.map_of(out)
            given = segmenter._handle, ctypes.byref(view), ctypes.byref(map_), None, 1
            assert library.clouds_segment(*given) == binding.REFUSED
            assert b"overlap or lie too far apart" in library.clouds_message()
        with pytest.raises(binding.Refused, match="labels of 5 x 5 are for an image of 4 x 4"):
            segmenter.segment(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 5), np.uint8))
        assert library.clouds_version().decode().count(".") == 2


def test_c_code_can_use_it(cpp_build: Path, toy: Path, toy_sam: Path) -> None:
    assert "ok" in builder.succeed([str(cpp_build / "clouds_plain_c"), str(toy), str(toy_sam)])
    assert builder.run([str(cpp_build / "clouds_plain_c"), str(toy / "none")]).returncode == 1


def test_units(cpp_build: Path) -> None:
    assert "unit: ok" in builder.succeed([str(cpp_build / "clouds_unit")])


def test_eight_threads_for_a_moment(cpp_build: Path, toy: Path) -> None:
    text = builder.succeed([str(cpp_build / "clouds_hammer"), str(toy), "2", "8"])
    assert int(text.split()[0]) > 50, text


@pytest.mark.slow
def test_eight_threads_for_a_minute(cpp_build: Path, small_bundle: Path) -> None:
    text = builder.succeed([str(cpp_build / "clouds_hammer"), str(small_bundle), "60", "8"])
    assert int(text.split()[0]) > 100, text


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(
    sanitizer: str, toy: Path, toy_sam: Path, small_bundle: Path, tmp_path: Path
) -> None:
    """Our code is instrumented, OpenVINO is not: what only it does is suppressed for threads."""
    build = builder.build(
        sanitizer.replace(",", "-"), f"-DCLOUDS_SANITIZE={sanitizer}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"
    )
    suppressions = builder.SOURCE / "tests" / "thread.supp"
    environment = {
        **os.environ,
        "TSAN_OPTIONS": f"suppressions={suppressions} halt_on_error=1",
        "TBB_ENABLE_SANITIZERS": "1",  # else it loads libraries in a way that no sanitizer stands
    }

    def check(*command: str, code: int = 0) -> None:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        text = done.stdout + done.stderr
        assert done.returncode == code, text[-6000:]
        assert "Sanitizer" not in text, text[-6000:]

    check(str(build / "clouds_unit"))
    check(str(build / "clouds_hammer"), str(toy), "10", "8")
    check(str(build / "clouds_hammer"), str(small_bundle), "20", "8")
    check(str(build / "clouds_plain_c"), str(toy), str(toy_sam))
    write_corpus(tmp_path / "corpus")
    for program, folder in (("clouds_fuzz", "bundle"), ("clouds_fuzz_images", "images")):
        if (build / program).is_file():
            check(str(build / program), "10", *map(str, (tmp_path / "corpus" / folder).iterdir()))
    check(str(build / "clouds_selftest"), str(small_bundle))
    check(str(build / "clouds_selftest"), str(tmp_path), code=2)
    if (build / "clouds_segment").is_file():
        shutil.copytree(builder.ROOT / "docs" / "images", tmp_path / "images")
        check(
            str(build / "clouds_segment"), str(toy), str(tmp_path / "images"), "--out", str(tmp_path / "out")
        )
