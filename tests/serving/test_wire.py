"""What real clients send to `/v2`: compressed bodies, binary data alone, and what they ask for before."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.backends.backends import open_session
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import UnfitImageError
from clouds_deploy.labels import CITYSCAPES
from clouds_deploy.serving.gate import _Inflater
from clouds_deploy.serving.limits import Limits, Refusal
from tests.serving.live import Live, live, picture_of, png, refused
from tests.serving.test_kserve import INFER, binary, images, read

IMAGE: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 64, 128, 3]}
TAKES = "`image` UINT8 [N, 64, 128, 3]"


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle, limits=Limits(body_bytes=2**20)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(small_bundle: Path) -> np.ndarray:
    return open_session(small_bundle).run({"image": images(1)})["labels"]


def headless(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
        ("deflate", zlib.compress),
        ("deflate", headless),
        ("identity", bytes),
    ],
)
def test_compressed_bodies(
    served: Live, expected: np.ndarray, name: str, compress: Callable[[bytes], bytes]
) -> None:
    content, headers = binary(images(1))  # the length of the JSON is that before compression
    packed = {**headers, "Content-Encoding": name}
    assert np.array_equal(read(served.http.post(INFER, content=compress(content), headers=packed)), expected)

    def parts() -> Iterator[bytes]:
        data = compress(content)
        yield from (data[i : i + 997] for i in range(0, len(data), 997))

    assert np.array_equal(read(served.http.post(INFER, content=parts(), headers=packed)), expected)


def test_compressed_pictures(served: Live) -> None:
    form = served.http.build_request("POST", "/v1/segment", files={"image": png(images(1)[0])})
    headers = {"Content-Type": form.headers["content-type"], "Content-Encoding": "gzip"}
    answer = served.http.post("/v1/segment", content=gzip.compress(form.read()), headers=headers)
    assert np.array_equal(picture_of(answer), picture_of(served.post("/v1/segment", images(1)[0])))


def test_compressed_bodies_that_are_refused(served: Live) -> None:
    content, headers = binary(images(1))

    def post(data: bytes, name: str = "gzip") -> Any:
        return served.http.post(INFER, content=data, headers={**headers, "Content-Encoding": name})

    refused(post(gzip.compress(content)[:-9]), 400, "ends too early")
    refused(post(content), 400, "damaged")
    refused(post(gzip.compress(content) + b"\x1f\x8b tail"), 400, "damaged")
    refused(post(gzip.compress(bytes(2**24))), 413, "1048576 bytes")
    refused(post(content, "br"), 415, "or as gzip or x-gzip or deflate")
    refused(post(content, "gzip, gzip"), 415, "gzip, gzip")
    assert read(post(zlib.compress(content), "deflate")).shape == (1, 64, 128)


def test_a_bomb_is_not_unpacked() -> None:
    inflater = _Inflater(1000)
    assert inflater.feed(gzip.compress(bytes(1000)), True) == bytes(1000)
    with pytest.raises(Refusal) as caught:
        _Inflater(1000).feed(gzip.compress(bytes(10**8)), True)
    assert caught.value.status == 413


def test_binary_data_alone(served: Live, expected: np.ndarray) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    answer = served.http.post(INFER, content=images(1).tobytes(), headers=headers)
    assert np.array_equal(read(answer), expected)
    refused(served.http.post(INFER, content=b"12345", headers=headers), 422, TAKES)


@pytest.mark.parametrize(
    ("inputs", "status", "word"),
    [
        ({"data": images(1).transpose(0, 3, 1, 2).tolist()}, 400, "nested as [1, 3, 64, 128]"),
        ({"data": images(1)[0].tolist()}, 400, "nested as [64, 128, 3]"),
        ({"data": images(1).astype(float).ravel().tolist()}, 422, f"whole numbers: {TAKES}"),
        ({"data": [256] * 24576}, 422, "0..255"),
        ({"datatype": "FP32", "data": []}, 422, TAKES),
        ({"datatype": "BYTES", "data": ["x"]}, 422, TAKES),
        ({"shape": [1, 3, 64, 128], "data": []}, 422, TAKES),
        ({"shape": [64, 128, 3], "data": []}, 422, TAKES),
        ({"shape": [0, 64, 128, 3], "data": []}, 422, TAKES),
        ({"name": "input", "data": []}, 422, TAKES),
        ({"name": "\ud800", "data": []}, 422, TAKES),
        ({"parameters": {"shared_memory_region": "r"}}, 400, "binary data"),
    ],
)
def test_refusals_say_what_is_expected(served: Live, inputs: Any, status: int, word: str) -> None:
    sent = json.dumps({"inputs": [{**IMAGE, **inputs}]}).encode()
    refused(served.http.post(INFER, content=sent), status, word)


def test_outputs(served: Live, expected: np.ndarray) -> None:
    one = {**IMAGE, "data": images(1).tolist()}

    def ask(outputs: Any) -> Any:
        return served.http.post(INFER, json={"inputs": [one], "outputs": outputs})

    answer = ask([{"name": "labels"}]).json()["outputs"]
    assert [made["name"] for made in answer] == ["labels"]
    assert answer[0]["data"] == expected.ravel().tolist()
    refused(ask([{"name": "labels"}] * 2), 400, "twice")
    refused(ask([{"name": "scores"}]), 422, "known: `labels`")
    refused(ask([{"name": "labels", "parameters": {"classification": 3}}]), 400, "not served")


def test_what_clients_ask_before(small_bundle: Path) -> None:
    with live(small_bundle, sam=False) as served:
        get, post = served.http.get, served.http.post
        config = get("/v2/models/small/config").json()
        assert config["name"] == "small"
        assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [64, 128, 3]}]
        assert config["output"] == [{"name": "labels", "data_type": "TYPE_UINT8", "dims": [64, 128]}]
        assert config["max_batch_size"] == 128
        assert config["dynamic_batching"]["preferred_batch_size"] == [8]
        assert get("/v2/models/small/versions/1/config").json() == config
        assert get("/v2/models").json() == {"models": ["small"]}
        about = [{"name": "small", "version": "1", "reason": "", "state": "READY"}]
        assert post("/v2/repository/index").json() == get("/v2/repository/index").json() == about
        assert post("/v2/repository/index", json={"ready": True}).json() == about
        refused(post("/v2/repository/index", content=b"["), 400, "ready")
        refused(get("/v2/models/large/config"), 404, "`small`")
        refused(get("/v2/models/large/stats"), 404, "`small`")
        content, headers = binary(images(3))
        read(post(INFER, content=content, headers=headers))
        assert served.post("/v1/segment", images(1)[0]).status_code == 200
        refused(post(INFER, content=b""), 400, "not JSON")
        (stats,) = get("/v2/models/small/stats").json()["model_stats"]
        assert get("/v2/models/stats").json()["model_stats"] == [stats]
        assert (stats["name"], stats["inference_count"]) == ("small", 4)
        assert stats["inference_stats"]["success"]["count"] == 2
        assert stats["inference_stats"]["queue"]["count"] == 4
        assert sum(one["compute_infer"]["count"] for one in stats["batch_stats"]) == stats["execution_count"]
        assert stats["last_inference"] > 1.6e12


@pytest.mark.parametrize("path", ["/v2/", "/v2/models/", "/v2/models/small/", "/v1/model/", "/health/"])
def test_a_slash_at_the_end_is_no_other_place(served: Live, path: str) -> None:
    answer = served.http.get(path, follow_redirects=False)
    assert answer.status_code == 200
    assert answer.json() == served.http.get(path.rstrip("/")).json()


def test_what_sam_cannot_take(small_bundle: Path) -> None:
    """An image that is too thin is the client's fault, a model that fails the server's."""
    faults: list[Exception] = []

    def broken(*_: object) -> np.ndarray:
        raise faults[-1]

    with live(small_bundle, refine=broken) as running:
        faults.append(UnfitImageError("the image is too thin", "cut it into parts"))
        refused(running.post("/v1/refine", images(1)[0]), 422, "too thin")
        faults.append(CloudsError("the engine failed", "see its log"))
        response = running.post("/v1/refine", images(1)[0])
        refused(response, 503, "the engine failed")
        assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_thin_images(small_bundle: Path, size: tuple[int, int]) -> None:
    """The SAM that the package has refuses what it cannot resize; labels are given at any size."""
    from clouds_deploy.serving.serve import _open_sam

    _, refine = _open_sam("sam_tiny", None, "cpu", Limits(), CITYSCAPES)
    thin = png(np.asarray(Image.new("RGB", size)))
    with live(small_bundle, refine=refine) as running:
        refused(running.post("/v1/refine", thin), 422, "too thin")
        assert picture_of(running.post("/v1/segment", thin)).shape == size[::-1]


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_tritons_client(served: Live, expected: np.ndarray, algorithm: str | None) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(served.address.removeprefix("http://"))
    image = http.InferInput("image", [1, 64, 128, 3], "UINT8").set_data_from_numpy(images(1))
    answer = client.infer(
        "small",
        [image],
        request_id="a b/ü",
        priority=1,
        timeout=5_000_000,
        parameters={"x": "y"},
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.array_equal(answer.as_numpy("labels"), expected)
    assert answer.get_response()["id"] == "a b/ü"
    assert client.get_model_config("small")["name"] == "small"
    assert client.get_model_repository_index()[0]["state"] == "READY"
    assert client.get_inference_statistics("small")["model_stats"][0]["name"] == "small"
    assert client.is_model_ready("small", "1")
    assert not client.is_model_ready("other")
    wrong = http.InferInput("image", [1, 3, 64, 128], "UINT8")
    wrong.set_data_from_numpy(np.ascontiguousarray(images(1).transpose(0, 3, 1, 2)))
    with pytest.raises(Exception, match=r"send `image` UINT8 \[N, 64, 128, 3\]"):
        client.infer("small", [wrong])
    client.close()


def test_the_description_is_complete(served: Live) -> None:
    """Every route with its methods is described, and nothing else."""
    described = served.http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    routes = {
        (route.path, method.lower())
        for route in served.gate.app.routes  # type: ignore[attr-defined]
        for method in route.methods - {"HEAD"}
    }
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routes
    assert json.dumps(described)
