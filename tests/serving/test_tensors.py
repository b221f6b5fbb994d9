"""The protocol's wire format, against requests written by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.tensors import Inference, Wanted, metadata, parse, render

INPUTS = (TensorSpec("image", "uint8", (None, 2, 3)),)
OUTPUTS = (TensorSpec("labels", "uint8", (None, 2)), TensorSpec("scores", "float32", (None, 4)))
GOOD: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}


def read(request: Any, tail: bytes | None = None, length: str | None = None) -> Inference:
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    if tail is not None:
        length = length or str(len(head))
    return parse(head + (tail or b""), length, INPUTS, OUTPUTS)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[[1, 2, 3], [4, 5, 6]]]])
def test_json_flat_or_nested(data: Any) -> None:
    made = read({"id": "7", "inputs": [{**GOOD, "data": data}]})
    assert made.inputs["image"].dtype == np.uint8
    assert made.inputs["image"].tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert made.outputs == (Wanted("labels", False), Wanted("scores", False))
    assert made.identity == "7"


def test_binary() -> None:
    one = {**GOOD, "parameters": {"binary_data_size": 6}}
    del one["data"]
    made = read({"inputs": [one], "parameters": {"binary_data_output": True}}, bytes(range(6)))
    assert made.inputs["image"].ravel().tolist() == list(range(6))
    assert made.outputs == (Wanted("labels", True), Wanted("scores", True))
    asked = [{"name": "scores"}, {"name": "labels", "parameters": {"binary_data": True}}]
    made = read({"inputs": [one], "outputs": asked}, bytes(6))
    assert made.outputs == (Wanted("scores", False), Wanted("labels", True))


BLOB = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3], "parameters": {"binary_data_size": 6}}


@pytest.mark.parametrize(
    ("request_", "tail", "length", "status", "word"),
    [
        (b"{", None, None, 400, "not JSON"),
        (b"[" * 900, None, None, 400, "not JSON"),
        (b"[" * 100000, None, None, 400, "brackets"),
        (b'{"inputs":[' + b"[]," * 100000 + b"[]]}", None, None, 400, "brackets"),
        (b"\xff\xfe", None, None, 400, "not JSON"),
        ([], None, None, 400, "no list `inputs`"),
        ({"inputs": {}}, None, None, 400, "no list `inputs`"),
        ({"inputs": [1]}, None, None, 400, "no list `inputs`"),
        ({"inputs": []}, None, None, 422, "missing"),
        ({"inputs": [GOOD, GOOD]}, None, None, 422, "twice"),
        (
            {"inputs": [{**GOOD, "name": "x"}]},
            None,
            None,
            422,
            "`x` is none of the model's; it takes `image` UINT8 [N, 2, 3]",
        ),
        ({"inputs": [{**GOOD, "name": ["x"]}]}, None, None, 422, "is none of the model's"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, None, None, 422, "FP32"),
        ({"inputs": [{**GOOD, "shape": [1, 2]}]}, None, None, 422, "shape"),
        ({"inputs": [{**GOOD, "shape": [1, 3, 2]}]}, None, None, 422, "shape"),
        ({"inputs": [{**GOOD, "shape": [0, 2, 3]}]}, None, None, 422, "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [-1, 2, 3]}]}, None, None, 422, "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [True, 2, 3]}]}, None, None, 422, "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [10**30, 2, 3]}]}, None, None, 422, "holds 6 values"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3]}]}, None, None, 422, "holds 3 values"),
        ({"inputs": [{**GOOD, "data": [[1, 2], [3]]}]}, None, None, 422, "ragged"),
        ({"inputs": [{**GOOD, "data": "123456"}]}, None, None, 422, "no list `data`"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3, 4, 5, 256]}]}, None, None, 422, "0..255"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3, 4, 5, -1]}]}, None, None, 422, "0..255"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3, 4, 5, 0.5]}]}, None, None, 422, "no uint8"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3, 4, 5, None]}]}, None, None, 422, "no uint8"),
        ({"inputs": [{**GOOD, "data": ["a"] * 6}]}, None, None, 422, "no uint8"),
        ({"inputs": [{**GOOD, "data": [10**30] * 6}]}, None, None, 422, "no uint8"),
        ({"inputs": [BLOB]}, b"12345", None, 400, "5 came"),
        ({"inputs": [BLOB]}, b"1234567", None, 400, "belong to no input"),
        ({"inputs": [BLOB]}, None, None, 400, "0 came"),
        ({"inputs": [{**BLOB, "parameters": {"binary_data_size": 7}}]}, b"1234567", None, 422, "names 7"),
        ({"inputs": [{**BLOB, "parameters": {"binary_data_size": -6}}]}, b"", None, 422, "names -6"),
        ({"inputs": [BLOB]}, b"123456", "99999999999999999999", 400, "Header-Content-Length"),
        ({"inputs": [BLOB]}, b"123456", "-3", 400, "Header-Content-Length"),
        ({"inputs": [BLOB]}, b"123456", "²", 400, "Header-Content-Length"),
        ({"inputs": [GOOD], "outputs": "labels"}, None, None, 400, "`outputs`"),
        ({"inputs": [GOOD], "outputs": []}, None, None, 400, "name `labels`, `scores` there"),
        ({"inputs": [GOOD], "outputs": [{"name": "labels"}] * 2}, None, None, 400, "twice"),
        ({"inputs": [{**GOOD, "data": [[[1, 2], [3, 4], [5, 6]]]}]}, None, None, 400, "nested as [1, 3, 2]"),
        ({"inputs": [{**GOOD, "data": [[1, 2, 3], [4, 5, 6]]}]}, None, None, 400, "nested as [2, 3]"),
        ({"inputs": [GOOD], "parameters": [1]}, None, None, 400, "`parameters`"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": "no"}}, None, None, 400, "true or false"),
        ({"inputs": [{**GOOD, "parameters": {"shared_memory_region": "r"}}]}, None, None, 400, "not served"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "labels", "parameters": {"classification": 3}}]},
            None,
            None,
            400,
            "not served",
        ),
        (b"", b"12345", "0", 422, "6 bytes per image: `image` UINT8 [N, 2, 3]"),
        (b"", b"", "0", 422, "0 bytes"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, None, None, 422, "no output `x`"),
        (
            json.dumps({"inputs": [{**GOOD, "name": 0}]}).replace("0}", "[" * 900 + "]" * 900 + "}").encode(),
            None,
            None,
            422,
            "is none of the model's",
        ),
        ({"inputs": [{**GOOD, "name": "\ud800"}]}, None, None, 422, "`\\ud800` is none"),
        ({"inputs": [GOOD], "id": 7}, None, None, 400, "`id`"),
    ],
)
def test_what_is_wrong_is_said(
    request_: Any, tail: bytes | None, length: str | None, status: int, word: str
) -> None:
    with pytest.raises(Refusal) as caught:
        read(request_, tail, length)
    assert caught.value.status == status
    assert word in caught.value.body["error"]
    assert caught.value.hint


@given(arrays.arrays(np.float32, (2, 4), elements=st.floats(-1e6, 1e6, width=32)), st.booleans())
def test_answers_can_be_read_back(scores: np.ndarray, binary: bool) -> None:
    labels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    asked = Inference({}, (Wanted("labels", False), Wanted("scores", binary)), "me")
    body, headers = render("m", "1", asked, {"labels": labels, "scores": scores})
    length = int(headers.get("Inference-Header-Content-Length", len(body)))
    answer = json.loads(body[:length])
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "1", "me")
    first, second = answer["outputs"]
    assert first == {"name": "labels", "datatype": "UINT8", "shape": [2, 2], "data": [0, 1, 2, 3]}
    values = np.frombuffer(body[length:], np.float32) if binary else np.array(second["data"], np.float32)
    assert np.array_equal(values.reshape(second["shape"]), scores)


def test_metadata() -> None:
    assert metadata(INPUTS[0]) == {"name": "image", "datatype": "UINT8", "shape": [-1, 2, 3]}


@pytest.mark.parametrize("count", [1, 2])
def test_binary_data_alone(count: int) -> None:
    """`Inference-Header-Content-Length: 0`: the body is the one input, the answer is binary."""
    made = read(b"", bytes(range(6 * count)), "0")
    assert made.inputs["image"].shape == (count, 2, 3)
    assert made.inputs["image"].ravel().tolist() == list(range(6 * count))
    assert made.outputs == (Wanted("labels", True), Wanted("scores", True))
