"""`/v2` over HTTP, as the protocol's text has it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.backends.backends import open_session
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.model import Batching, ServedModel
from tests.deadly import wait_until
from tests.serving.live import Live, live, refused

INFER = "/v2/models/small/infer"


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle, sam=False) as running:
        yield running


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 128, 3)).astype(np.uint8)


def binary(batch: np.ndarray) -> tuple[bytes, dict[str, str]]:
    one = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(batch.shape),
        "parameters": {"binary_data_size": batch.nbytes},
    }
    head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    return head + batch.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def read(response: Any) -> np.ndarray:
    assert response.status_code == 200, response.text
    length = int(response.headers["inference-header-content-length"])
    about = json.loads(response.content[:length])["outputs"][0]
    assert about["parameters"]["binary_data_size"] == len(response.content) - length
    return np.frombuffer(response.content[length:], np.uint8).reshape(about["shape"])


def test_metadata_and_health(served: Live) -> None:
    get = served.http.get
    assert "binary_tensor_data" in get("/v2").json()["extensions"]
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/health").status_code == get("/ready").status_code == 200
    about = get("/v2/models/small").json()
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 64, 128, 3]}]
    assert about["outputs"] == [{"name": "labels", "datatype": "UINT8", "shape": [-1, 64, 128]}]
    assert get("/v2/models/small/versions/1").json() == about
    assert get("/v2/models/small/ready").json() == {"ready": True}
    refused(get("/v2/models/large"), 404, "`large`")
    refused(get("/v2/models/small/versions/2"), 404, "version 2")
    refused(get("/v2/models/large/ready"), 404, "`large`")


@pytest.mark.parametrize("count", [1, 3, 11])
def test_inference_equals_the_session(served: Live, small_bundle: Path, count: int) -> None:
    """More images than a call takes go through several."""
    batch = images(count)
    session = open_session(small_bundle)
    expected = np.concatenate([session.run({"image": batch[i : i + 1]})["labels"] for i in range(count)])
    content, headers = binary(batch)
    labels = read(served.http.post(INFER, content=content, headers=headers))
    assert (labels == expected).mean() > 0.9999  # in batches of another size sums are added in another order
    if count == 1:
        one = {"name": "image", "datatype": "UINT8", "shape": list(batch.shape), "data": batch.tolist()}
        answer = served.http.post(INFER, json={"id": "a", "inputs": [one]}).json()
        assert answer["id"] == "a"
        assert answer["outputs"][0]["data"] == labels.ravel().tolist()


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_other_backends(small_bundle: Path, backend: str) -> None:
    batch = images(3)
    expected = open_session(small_bundle, backend).run({"image": batch})["labels"]
    with live(small_bundle, backend=backend, sam=False) as running:
        content, headers = binary(batch)
        labels = read(running.http.post(INFER, content=content, headers=headers))
        assert (labels == expected).mean() > 0.9999
        assert running.http.get("/v1/model").json()["backend"] == backend


def test_refusals_reach_the_client(served: Live) -> None:
    refused(served.http.post(INFER, content=b"{"), 400, "not JSON")
    refused(served.http.post(INFER, json={"inputs": []}), 422, "missing")
    content, headers = binary(images(1)[:, :32])
    refused(served.http.post(INFER, content=content, headers=headers), 422, "shape")
    content, headers = binary(images(1))
    refused(served.http.post("/v2/models/x/infer", content=content, headers=headers), 404, "`x`")


def test_requests_share_calls(small_bundle: Path) -> None:
    """Twelve clients at once while the engine is busy: at most 4 images a call, fewer calls than images."""
    calls: list[int] = []
    go = threading.Event()

    def wrap(run: Any) -> Any:
        def counted(batch: list[Any]) -> Any:
            go.wait(10)
            calls.append(len(batch))
            return run(batch)

        return counted

    with live(small_bundle, batching=Batching(largest=4), wrap=wrap, sam=False) as running:
        session = open_session(small_bundle)
        got: dict[int, np.ndarray] = {}

        def ask(seed: int) -> None:
            content, headers = binary(images(1, seed))
            got[seed] = read(running.http.post(INFER, content=content, headers=headers))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(running.model.queue) >= 8)
        go.set()
        for thread in threads:
            thread.join(20)
        assert sum(calls) == 12
        assert max(calls) == 4
        assert len(calls) <= 6
        for seed, labels in got.items():  # everybody got his own
            expected = session.run({"image": images(1, seed)})["labels"]
            assert (labels == expected).mean() > 0.9999
        text = running.http.get("/metrics").text
        assert 'clouds_batch_images_sum{engine="segmenter"} 12.0' in text
        assert 'clouds_requests_total{route="/v2/models/{model}/infer",status="200"} 12.0' in text
        assert "clouds_process_resident_memory_bytes" in text
        assert "clouds_queue_segmenter 0.0" in text


def test_a_graph_of_a_fixed_batch(small_bundle: Path) -> None:
    """Fewer images are filled up, and what fills is not answered."""
    model = ServedModel(small_bundle, batching=Batching(largest=8))
    seen: list[int] = []

    class Fixed:
        def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            seen.append(len(feeds["image"]))
            return {"labels": feeds["image"][..., 0]}

    model.session = Fixed()  # type: ignore[assignment]
    model.image = type(model.image)("image", "uint8", (4, 64, 128, 3))
    batch = images(3)
    rows = model._run(list(batch))
    assert seen == [4]
    assert np.array_equal(np.stack([row["labels"] for row in rows]), batch[..., 0])
    model.queue.close()
    with pytest.raises(Refusal, match="shutting down"):
        model.submit(list(batch))
