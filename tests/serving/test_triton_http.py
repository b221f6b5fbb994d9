"""What Triton's tests ask of HTTP (`qa/L0_http/http_test.py`, `qa/L0_http_fuzz`), as cases of our own.

Of their list, shared memory, model control and models with several inputs are not served here, and refused in
words.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from clouds_deploy.backends.backends import open_session
from clouds_deploy.serving.limits import Limits
from tests.serving.live import Live, live, refused
from tests.serving.test_kserve import INFER, binary, images

RAW = {"Inference-Header-Content-Length": "0"}
ONE: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 64, 128, 3]}


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle, limits=Limits(body_bytes=2**20, header_seconds=2.0), sam=False) as running:
        yield running


def raw_labels(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    size = int(response.headers["Inference-Header-Content-Length"])
    about = json.loads(response.content[:size])["outputs"][0]
    assert about["parameters"]["binary_data_size"] == len(response.content) - size
    return np.frombuffer(response.content[size:], np.uint8).reshape(about["shape"])


@pytest.mark.parametrize("count", [1, 3])
def test_binary_data_alone_of_one_and_of_several_images(served: Live, small_bundle: Path, count: int) -> None:
    batch = images(count)
    found = raw_labels(served.http.post(INFER, content=batch.tobytes(), headers=RAW))
    assert (found == open_session(small_bundle).run({"image": batch})["labels"]).mean() > 0.9999


@pytest.mark.parametrize("size", [0, 1, 64 * 128 * 3 - 1, 64 * 128 * 3 + 1])
def test_too_few_and_too_many_elements(served: Live, size: int) -> None:
    refused(served.http.post(INFER, content=bytes(size), headers=RAW), 422, "do not fit")


def test_chunks_with_extensions_and_trailers(served: Live, small_bundle: Path) -> None:
    """A body in chunks, written by hand, one of them by byte."""
    data = images(1).tobytes()
    parts = [data[:1], data[1:2], data[2:5000], data[5000:]]
    body = b"".join(b"%x;note=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nX-End: 1\r\n\r\n"
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    answer = talk(served, head.encode() + b"Inference-Header-Content-Length: 0\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200")
    expected = open_session(small_bundle).run({"image": images(1)})["labels"].tobytes()
    assert answer.endswith(expected)


@pytest.mark.parametrize("name", ["br", "compress", "gzip, deflate", "chunked", "x" * 500])
def test_encodings_that_are_not_served(served: Live, name: str) -> None:
    content, headers = binary(images(1))
    response = served.http.post(INFER, content=content, headers={**headers, "Content-Encoding": name})
    assert response.status_code in (400, 415)
    assert response.json()["hint"]


@pytest.mark.parametrize("coding", [b"gzip", b"xchunked", b"chunked, gzip", b"identity"])
def test_transfer_encodings_that_are_not_served(served: Live, coding: bytes) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: ".encode()
    assert talk(served, head + coding + b"\r\n\r\n0\r\n\r\n")[9:12] in (b"400", b"415", b"501")


@pytest.mark.parametrize("count", [2**31, 2**32, 2**62, 2**63, 2**64, 10**30])
@pytest.mark.parametrize("place", [0, 1])
def test_shapes_whose_size_overflows(served: Live, count: int, place: int) -> None:
    shape = [1, 64, 128, 3]
    shape[place] = count
    for more in ({"data": [1]}, {"parameters": {"binary_data_size": 24576}}):
        refused(served.http.post(INFER, json={"inputs": [{**ONE, "shape": shape, **more}]}), 422, "image")
    size = {"binary_data_size": count}
    response = served.http.post(INFER, json={"inputs": [{**ONE, "parameters": size}]})
    assert 400 <= response.status_code < 500


@pytest.mark.parametrize("shape", [[-1, 64, 128, 3], [1, -64, -128, 3], [0, 64, 128, 3], [1, 64, 128, -3]])
def test_dimensions_below_one(served: Live, shape: list[int]) -> None:
    request = {"inputs": [{**ONE, "shape": shape, "data": [1]}]}
    refused(served.http.post(INFER, json=request), 422, "whole numbers above 0")


@pytest.mark.parametrize("depth", [10, 500, 5000, 200_000])
@pytest.mark.parametrize("place", ["data", "parameters", "id", "extra"])
def test_deep_json(served: Live, depth: int, place: str) -> None:
    deep = "[" * depth + "]" * depth
    text = json.dumps({"inputs": [{**ONE, "data": 0}], "id": 0, "parameters": 0, "extra": 0})
    content = text.replace(f'"{place}": 0', f'"{place}": {deep}')
    response = served.http.post(INFER, content=content)
    assert 400 <= response.status_code < 500
    assert len(response.content) < 2000


@pytest.mark.parametrize("name", ["shared_memory_region", "classification"])
def test_extensions_that_are_not_served(served: Live, name: str) -> None:
    request = {"inputs": [{**ONE, "parameters": {name: "r"}}]}
    refused(served.http.post(INFER, json=request), 400, "is not served")


PATHS = (
    *("/v2", "/v2/models/small", "/v2/models/small/infer", "/v2/models/small/versions/v1"),
    *("/v2/models/small/config", "/v2/models/small/stats", "/v2/models/small/ready"),
    *("/v2/health/ready", "/v2/health/live", "/v2/repository/index"),
    *("/v2/repository/models/small/unload", "/v2/repository/models/small/load"),
    *("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/region/xx/status", "/v1/segment", "/metrics"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "get", "", "G" * 5000)


def talk(running: Live, data: bytes, wait: float = 5.0) -> bytes:
    """Everything that comes back until the server closes, or says nothing for a while."""
    with socket.create_connection(running.taken.getsockname(), timeout=wait) as line:
        got = b""
        try:
            line.sendall(data)
            while part := line.recv(65536):
                got += part
        except OSError:
            pass
        return got


def odd(chance: random.Random, path: str) -> bytes:
    """A request line of which one part, or none, is changed."""
    parts = [chance.choice(METHODS).encode(), b" ", path.encode(), b" ", b"HTTP/1.1", b"\r\n"]
    place = chance.randrange(len(parts))
    strange = [
        b"",
        b"\0",
        b"  ",
        b"\t",
        b"%s%n%x",
        b"A" * 9000,
        b"/../" * 50,
        b"\xff\xfe",
        b"\r",
        b"\n",
        b"%00",
    ]
    strange += [
        b"HTTP/9.9",
        b"HTTP/1.",
        b"?a=" + b"b" * 2000,
        b"'\"<>",
        chance.randbytes(20),
        b"-1",
        b"#",
        b"*",
    ]
    change = chance.randrange(4)
    if change == 0:
        parts[place] = chance.choice(strange)
    elif change == 1:
        parts[place] += chance.choice(strange)
    elif change == 2:
        parts[place] = parts[place] * chance.randrange(2, 40)
    close = b"Connection: close\r\n\r\n"
    ends = [b"Host: localhost\r\n" + close, close, b"Host: a\r\nHost: b\r\n" + close]
    return b"".join(parts) + chance.choice(ends)


@pytest.mark.parametrize("path", PATHS)
def test_strange_request_lines(served: Live, path: str) -> None:
    """Each is answered as the protocol says, or the connection is closed; none is a fault of the server."""
    chance = random.Random(path)
    statuses = []
    for _ in range(25):
        sent = odd(chance, path)
        for line in talk(served, sent, 0.3).split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                statuses.append(line[9:12])
                assert line[9:10] in b"24", (sent[:200], line)
    assert len(statuses) > 8
    assert served.http.get("/v2/health/ready").status_code == 200
    assert served.gate.inside == 0


def test_the_kserve_client(served: Live, small_bundle: Path) -> None:
    """The SDK's client, where it is installed (it needs many packages)."""
    kserve = pytest.importorskip("kserve")
    import asyncio

    async def ask() -> Any:
        config = kserve.RESTConfig(protocol="v2", timeout=30)
        client = kserve.InferenceRESTClient(config)
        assert await client.is_server_live(served.address)
        assert await client.is_server_ready(served.address)
        assert await client.is_model_ready(served.address, "small")
        image = kserve.InferInput("image", [1, 64, 128, 3], "UINT8")
        image.set_data_from_numpy(images(1), binary_data=True)
        request = kserve.InferRequest("small", [image])
        return await client.infer(served.address, request, model_name="small")

    answer = asyncio.run(ask())
    expected = open_session(small_bundle).run({"image": images(1)})["labels"]
    assert np.array_equal(answer.outputs[0].as_numpy(), expected)
