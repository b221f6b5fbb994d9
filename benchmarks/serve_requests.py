"""What the clients of `serve_load.py` ask: good requests, and everything that can be wrong with one."""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

from clouds_deploy.streets import render

HEIGHT, WIDTH = 360, 640


@dataclass(frozen=True)
class Ask:
    """One request, as bytes: clients shall spend their time on waiting, not on encoding.

    Attributes:
        name: What it is.
        path: Where it goes.
        content: The body.
        headers: Its headers.
        bad: Whether it has to be refused.
        magic: What a good answer begins with.
    """

    name: str
    path: str
    content: bytes
    headers: dict[str, str]
    bad: bool = False
    magic: bytes = b""

    def fault(self, response: httpx.Response) -> str | None:
        """Say what is wrong with an answer, or None."""
        if not self.bad:
            if response.status_code != 200:
                return f"{response.status_code} {response.text[:200]}"
            return None if response.content.startswith(self.magic) else "answered with something else"
        if not 400 <= response.status_code < 500 or response.status_code == 429:
            return f"{response.status_code} {response.text[:200]}"
        try:
            told = response.json()
        except ValueError:
            return f"{response.status_code} without a reason"
        return None if told.get("error") and told.get("hint") else f"{response.status_code} without a reason"


def form(name: str, path: str, files: dict[str, Any], data: dict[str, str] | None = None, **more: Any) -> Ask:
    """Encode a multipart form."""
    request = httpx.Request("POST", "http://x" + path, files=files, data=data)
    return Ask(name, path, request.read(), {"Content-Type": request.headers["content-type"]}, **more)


def tensors(name: str, model: str, head: dict[str, Any], blob: bytes | None = None, **more: Any) -> Ask:
    """Encode an inference request of the KServe protocol."""
    text = json.dumps(head).encode()
    headers = {"Content-Type": "application/json"}
    if blob is not None:
        headers = {"Inference-Header-Content-Length": str(len(text))}
    return Ask(name, f"/v2/models/{model}/infer", text + (blob or b""), headers, **more)


def encode(pixels: Any, kind: str) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def bomb(height: int, width: int) -> bytes:
    """Make a small PNG that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(2**20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def good_requests(about: dict[str, Any], sam: bool) -> list[Ask]:
    """List good requests, each as often as it shall be asked.

    Args:
        about: What `/v1/model` says.
        sam: Whether to click and to refine too.
    """
    asks: list[Ask] = []
    for i in range(6):
        scene = render("photo", 0, i, HEIGHT, WIDTH)
        image, labels = scene.image, scene.labels
        photo = {"image": (f"{i}.jpg", encode(image, "JPEG"))}
        asks += 3 * [form("labels", "/v1/segment", photo, magic=b"\x89PNG")]
        asks += [form("overlay", "/v1/segment?as=overlay", photo, magic=b"\xff\xd8")]
        asks += [form("shares", "/v1/segment?as=json", photo, magic=b'{"model"')]
        shape = (1, about["height"], about["width"], 3)
        fitted = np.asarray(Image.fromarray(image).resize((about["width"], about["height"])))
        head = {"name": "image", "datatype": "UINT8", "shape": shape}
        size = {"binary_data_size": fitted.nbytes}
        wants = [{"name": "labels", "parameters": {"binary_data": True}}]
        binary = {"inputs": [{**head, "parameters": size}], "outputs": wants}
        asks += 2 * [
            tensors("binary tensors", about["model"], binary, fitted.tobytes(), magic=b'{"model_name"')
        ]
        if i == 0:
            plain = {"inputs": [{**head, "data": fitted.ravel().tolist()}]}
            asks += [tensors("JSON tensors", about["model"], plain, magic=b'{"model_name"')]
        if sam:
            points = json.dumps([[WIDTH // 2, HEIGHT // 2, 1], [5 * i, 5, 0]])
            asks += [form("click", "/v1/points", photo, {"points": points}, magic=b"\x89PNG")]
        if sam and i == 0:
            pair = {**photo, "labels": ("labels.png", encode(labels, "PNG"))}
            asks += [form("refine", "/v1/refine", pair, magic=b"\x89PNG")]
    return asks


def bad_requests(about: dict[str, Any]) -> list[Ask]:
    """List requests that have to be refused with a reason, for a server with or without a SAM."""
    scene = render("photo", 1, 0, 90, 160)
    data, labels = encode(scene.image, "PNG"), scene.labels
    photo = {"image": ("a.png", data)}
    model = about["model"]
    wrong = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}
    right_shape = [1, about["height"], about["width"], 3]
    ragged = {"name": "image", "datatype": "UINT8", "shape": right_shape, "data": [[1, 2], [3]]}
    blob = {"name": "image", "datatype": "UINT8", "shape": right_shape, "parameters": {"binary_data_size": 7}}
    strange_ids = np.where(labels == 0, 77, labels).astype(np.uint8)
    asks = [
        form("text as an image", "/v1/segment", {"image": ("a.png", b"no image")}),
        form("half an image", "/v1/segment", {"image": ("a.png", data[: len(data) // 2])}),
        form("a bomb", "/v1/segment", {"image": ("a.png", bomb(30000, 30000))}),
        form("a bigger bomb", "/v1/segment", {"image": ("a.png", bomb(2**31 - 1, 2**31 - 1))}),
        form("a truthful header, no pixels", "/v1/segment", {"image": ("a.png", bomb(4000, 4000))}),
        form("no image", "/v1/segment", {"other": ("a.png", data)}),
        form("an unknown answer", "/v1/segment?as=poem", photo),
        form("a click outside", "/v1/points", photo, {"points": "[[900, 900, 1]]"}),
        form("a click that is none", "/v1/points", photo, {"points": "here"}),
        form(
            "labels of another size", "/v1/refine", {**photo, "labels": ("l.png", encode(labels[1:], "PNG"))}
        ),
        form(
            "labels that are none", "/v1/refine", {**photo, "labels": ("l.png", encode(strange_ids, "PNG"))}
        ),
        Ask("too long", "/v1/segment", bytes(about["limits"]["bytes"] + 1), {"Content-Type": "image/png"}),
        Ask("no form", "/v1/segment", data, {"Content-Type": "image/png"}),
        Ask(
            "a broken form",
            "/v1/segment",
            b"--x\r\nnonsense",
            {"Content-Type": "multipart/form-data; boundary=x"},
        ),
        Ask("nowhere", "/v1/nowhere", b"", {}),
        Ask("no JSON", f"/v2/models/{model}/infer", b"{", {}),
        Ask("deep JSON", f"/v2/models/{model}/infer", b"[" * 100000, {}),
        tensors("a wrong shape", model, {"inputs": [wrong]}),
        tensors("ragged data", model, {"inputs": [ragged]}),
        tensors("too little binary data", model, {"inputs": [blob]}, b"1234567"),
        tensors("another model", "other", {"inputs": [wrong]}),
    ]
    return [Ask(a.name, a.path, a.content, a.headers, bad=True) for a in asks]
