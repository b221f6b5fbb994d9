"""Where bytes from elsewhere come in: for each door whole inputs, their damage, and the reader."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clouds_deploy.artifacts import CACHE_VARIABLE, MANIFEST
from clouds_deploy.bundles.bundle import FACTS, GATES, GRAPH, REFERENCE, open_bundle
from clouds_deploy.bundles.vocabulary import FILE, Vocabulary
from tests.cpp.corpus import _external as graph_with_weights_elsewhere
from tests.cpp.toy import seal, write_toy
from tests.fuzz import mutate
from tests.fuzz.mutate import Mutator

LARGE = 1 << 24
"""Pixels of the largest image here: the limits of the readers are lowered to this, so that a breach shows."""


@dataclass(frozen=True)
class Door:
    """A reader of foreign bytes.

    Attributes:
        seeds: Whole inputs, and such as were found to be refused wrongly once.
        read: Takes an input: it returns or raises `CloudsError`.
        change: Damages an input.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    change: Mutator = mutate.any_bytes


def _recipes(work: Path) -> Door:
    from clouds_deploy.config.export import ExportConfig, export_recipe_folder
    from clouds_deploy.config.shipped import load_any_recipe, load_export_recipe, recipe_folder

    file = work / "recipe.yaml"
    folders = (recipe_folder(), export_recipe_folder())
    seeds = [path.read_bytes() for folder in folders for path in sorted(folder.glob("*.yaml"))]

    def read(data: bytes) -> None:
        file.write_bytes(data)
        both(lambda: load_any_recipe(str(file)), lambda: load_export_recipe(file, ExportConfig()))

    return Door([*seeds, *map(str.encode, YAML)], read, mutate.texts)


YAML = (
    "name: " + "[" * 5000,
    "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
    "f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
    "h: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h,*h]\n",
    "model: &m {width: 32, own: *m}\n",
    "seed: " + "9" * 5000,
    "name: 2001-99-99\n",
    "? [a]\n: b\n",
    "1: 2\ntrain: {3: 4}\n",
    "name: !!binary =\n",
    "<<: 5\n",
    "data: {classes: .}\n",
    "data: {root: \"a\\0b\", classes: \"a\\0b\"}\n",
    "base: [tiny]\n",
    "base: {a: 1}\n",
    "name: \"\\ud800\"\n",
    "train: {lr: .nan, steps: .inf}\n",
    "=: 1\n",
)  # fmt: skip
"""Texts that a YAML reader may fall over."""


def _label_sets(work: Path) -> Door:
    import clouds_deploy.labels as labels
    from clouds_deploy.labels.shipped import load_label_set

    files = (work / "set.yaml", work / "set.json")
    seeds = [path.read_bytes() for path in sorted((Path(labels.__file__).parent / "sets").glob("*.yaml"))]
    own = {
        "classes": [{"name": "a", "ids": [1, 2], "color": [1, 2, 3], "thing": True}, {"name": "b", "ids": 3}]
    }
    seeds.append(json.dumps(own).encode())

    def read(data: bytes) -> None:
        for file in files:
            file.write_bytes(data)
        both(*(lambda file=file: load_label_set(file) for file in files))  # type: ignore[misc]

    return Door([*seeds, *map(str.encode, YAML)], read, mutate.texts)


def both(*readers: Callable[[], object]) -> None:
    """Calls readers one after another, and raises what the first one refused."""
    from clouds_deploy.errors import CloudsError

    refused: CloudsError | None = None
    for one in readers:
        try:
            one()
        except CloudsError as error:
            refused = refused or error
    if refused:
        raise refused


def _whole(path: Path) -> None:
    """Everything that is read of a bundle without a runtime."""
    bundle = open_bundle(path)
    _ = bundle.label_set, bundle.precision, bundle.inputs, bundle.outputs
    both(bundle.reference, bundle.vocabulary, bundle.gates, lambda: bundle.limit("label_agreement", "bf16"))


def _manifest(work: Path) -> Door:
    toy = write_toy(work / "toy", text=True, scores=True)

    def read(data: bytes) -> None:
        (toy / MANIFEST).write_bytes(data)
        _whole(toy)

    return Door([(toy / MANIFEST).read_bytes()], read, mutate.documents)


def _facts(work: Path) -> Door:
    toy = write_toy(work / "toy", text=True, scores=True)
    facts, gates = (toy / FACTS).read_bytes(), (toy / GATES).read_bytes()

    def read(data: bytes) -> None:
        for name, other in ((FACTS, facts), (GATES, gates)):
            (toy / name).write_bytes(data)
            seal(toy)
            try:
                both(lambda: _whole(toy))
            finally:
                (toy / name).write_bytes(other)

    return Door([facts, gates], read, mutate.documents)


def _npz(work: Path) -> Door:
    from clouds_deploy.bundles.arrays import read_arrays

    toy = write_toy(work / "toy", text=True, scores=True)
    file = work / "a.npz"
    seeds = [(toy / REFERENCE).read_bytes(), (toy / FILE).read_bytes()]
    for pack in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        pack(buffer, a=np.arange(6, dtype=np.int16).reshape(2, 3), b=np.float32(1), c=np.zeros(0))  # type: ignore[operator]
        seeds.append(buffer.getvalue())

    def read(data: bytes) -> None:
        file.write_bytes(data)
        both(lambda: read_arrays(file), lambda: Vocabulary.load(file))

    return Door(seeds, read, mutate.zips(mutate.any_bytes))


def _packed(work: Path) -> Door:
    from clouds_deploy.bundles.packed import pack

    toy, file, cache = write_toy(work / "toy"), work / "a.clouds", work / "cache"
    os.environ[CACHE_VARIABLE] = str(cache)
    pack(toy, file)

    def read(data: bytes) -> None:
        file.write_bytes(data)
        try:
            _whole(file)
        finally:
            shutil.rmtree(cache, ignore_errors=True)

    return Door([file.read_bytes()], read, mutate.zips(mutate.documents))


def _onnx(work: Path) -> Door:
    from clouds_deploy.bundles.onnx_weights import check_weights

    file = work / "a.onnx"
    seeds = [(write_toy(work / "toy") / GRAPH).read_bytes(), graph_with_weights_elsewhere()]

    def read(data: bytes) -> None:
        file.write_bytes(data)
        check_weights(file, ["weights.bin"])

    return Door(seeds, read)


def _tar(work: Path) -> Door:
    from clouds_deploy.jobs.shards import unpack

    file, folder = work / "a.tar", work / "out"
    picture = _pictures()["rgb.png"]
    members = [("a.png", picture), ("b/c.jpg", b"x" * 700), ("d.labels.png", b""), ("e" * 90 + ".png", b"1")]
    seeds = [mutate.tar_of(members, form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    members[3] = ("é" * 60 + ".png", b"1")
    seeds.append(mutate.tar_of(members, tarfile.GNU_FORMAT))
    seeds += [gzip.compress(seeds[0]), b""]
    map_ = b"GNU.sparse.major=1\n", b"GNU.sparse.minor=0\n", b"GNU.sparse.realsize=9999999999\n"
    pax = b"".join(b"%d %s" % (len(one) + 3, one) for one in map_)
    seeds.append(
        mutate.tar_of([("x.png", pax), ("s.png", b"1\n0\n0\n".ljust(512, b"\0"))], tarfile.USTAR_FORMAT)
    )

    def read(data: bytes) -> None:
        file.write_bytes(data)
        try:
            for name in unpack(file, "a.tar", folder, lambda member: member):
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise AssertionError(f"{name} is written outside")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return Door(seeds, read, mutate.tars)


def _pictures() -> dict[str, bytes]:
    """Small images of every format and mode that is read."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (9, 14, 3)).astype(np.uint8))
    ids = rng.integers(0, 19, (9, 14))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {}
    for name, image, form, options in (
        ("rgb.png", rgb, "PNG", {}), ("turned.png", rgb, "PNG", {"exif": exif}),
        ("grey.png", rgb.convert("L"), "PNG", {}), ("palette.png", rgb.convert("P"), "PNG", {}),
        ("alpha.png", rgb.convert("RGBA"), "PNG", {}), ("bits.png", rgb.convert("1"), "PNG", {}),
        ("deep.png", Image.fromarray(ids.astype(np.uint16) * 250), "PNG", {}),
        ("ids.png", Image.fromarray(ids.astype(np.uint8)), "PNG", {}),
        ("wide.tif", Image.fromarray(ids.astype(np.int32)), "TIFF", {}),
        ("rgb.jpg", rgb, "JPEG", {"exif": exif}), ("cmyk.jpg", rgb.convert("CMYK"), "JPEG", {}),
        ("progressive.jpg", rgb, "JPEG", {"progressive": True}), ("rgb.bmp", rgb, "BMP", {}),
        ("rgb.webp", rgb, "WEBP", {"lossless": True}), ("rgb.ppm", rgb, "PPM", {}),
        ("grey.pgm", rgb.convert("L"), "PPM", {}),
        ("raw.tif", rgb, "TIFF", {}), ("lzw.tif", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("jpeg.tif", rgb, "TIFF", {"compression": "jpeg"}),
        ("deflate.tif", rgb, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("float.tif", Image.fromarray(ids.astype(np.float32)), "TIFF", {}), ("a.gif", rgb, "GIF", {}),
        ("two.gif", rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        made[name] = buffer.getvalue()
    made["ascii.ppm"] = b"P3\n2 1\n255\n1 2 3 4 5 6\n"
    made["a.eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"
    return made


def _images(work: Path) -> Door:
    from clouds_deploy.data import images

    images.LARGEST_PIXELS = LARGE
    file = work / "image"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        both(lambda: images.read_image(file), lambda: _decode(images, data))

    return Door(list(_pictures().values()), read, mutate.pngs)


def _decode(images: Any, data: bytes) -> None:
    height, width = images.measure_image(data, "image")
    if height * width <= LARGE:
        images.decode_image(data, "image")


def _label_maps(work: Path) -> Door:
    from clouds_deploy.data import images
    from clouds_deploy.data.layouts.reading import read_instances

    images.LARGEST_PIXELS = LARGE
    file = work / "labels.png"
    readers = (
        images.read_label_ids,
        images.read_wide_ids,
        images.read_colors,
        images.read_red_ids,
        read_instances,
    )

    def read(data: bytes) -> None:
        file.write_bytes(data)
        both(*(lambda one=one: one(file) for one in readers))  # type: ignore[misc]

    return Door(list(_pictures().values()), read, mutate.pngs)


def _weights(work: Path) -> Door:
    import torch
    from safetensors.torch import save

    from clouds_deploy.models.weights import read_weight_file

    files = (work / "a.pth", work / "a.pkl", work / "a.safetensors")
    state = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(3, dtype=torch.float16)}
    seeds = [save(state)]
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"model": state, "step": 3}, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(buffer.getvalue())
    for protocol in (2, 4):
        arrays = {"model": {"a": np.ones((2, 3), np.float32), "b": np.float64(1)}, "author": "x"}
        seeds.append(pickle.dumps(arrays, protocol=protocol))

    def read(data: bytes) -> None:
        for file in files:
            file.write_bytes(data)
        both(*(lambda file=file: read_weight_file(file) for file in files))  # type: ignore[misc]

    return Door(seeds, read, mutate.zips(mutate.any_bytes))


def _prompts(work: Path) -> Door:
    from clouds_deploy.generation.generate import read_prompts

    file = work / "prompts.txt"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_prompts(file)

    return Door([b"a street\nanother street at night\n", "é\u2028x\n".encode()], read)


def _ledger(work: Path) -> Door:
    from clouds_deploy.jobs.results import read_ledger

    file = work / "ledger.jsonl"
    record = {
        "name": "a.png",
        "identity": {"source": "x"},
        "files": {"a.png": {"bytes": 3, "sha256": "0" * 64}},
    }
    lines = b"".join(json.dumps({**record, "name": name}).encode() + b"\n" for name in "abc")

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_ledger(file)

    return Door([lines], read, mutate.texts)


class _Server:
    """The application without a network: what uvicorn would hand it, it gets from here."""

    def __init__(self, work: Path) -> None:
        from clouds_deploy.serving.app import make_app
        from clouds_deploy.serving.limits import Limits
        from clouds_deploy.serving.metrics import Metrics
        from clouds_deploy.serving.model import ServedModel
        from clouds_deploy.serving.promptable import Promptable
        from tests.refinement.fakes import ColourSam

        metrics = Metrics()
        model = ServedModel(write_toy(work / "toy"), "onnxruntime", metrics=metrics)
        filled = lambda image, labels, _: np.where(labels == 255, 0, labels).astype(np.uint8)  # noqa: E731
        limits = Limits(pixels=1 << 20, body_bytes=1 << 21)
        self.app = make_app(model, Promptable(ColourSam(), filled, metrics=metrics), limits, metrics)
        self.app.open = True
        self.infer = f"/v2/models/{model.name}/infer"
        self.loop = asyncio.new_event_loop()

    def ask(self, data: bytes) -> None:
        """Sends a request: a line with the path, lines of headers, an empty line, the body."""
        from clouds_deploy.errors import CloudsError

        head, _, body = data.partition(b"\n\n")
        path, *lines = head.split(b"\n")
        headers = [(b"host", b"localhost")]
        for line in lines:
            name, colon, value = line.partition(b":")
            if colon and name and all(32 < byte < 127 for byte in name):  # what h11 lets through
                headers.append((name.lower(), value.strip().translate(None, b"\0\r\n")))
        if not any(name == b"content-length" for name, _ in headers):
            headers.append((b"content-length", str(len(body)).encode()))
        status, answer = self.loop.run_until_complete(self._ask(path.decode("latin1"), headers, body))
        if status >= 500 and status != 504:
            raise AssertionError(f"answered {status}")
        if status >= 400:
            raise CloudsError(f"answered {status}: {answer[:200]!r}")

    async def _ask(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
        """Status of an answer, and what it says."""
        sent: list[dict[str, Any]] = []
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode("latin1"), "root_path": "", "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        await self.app(scope, receive, send)
        if not sent:
            raise AssertionError("no answer")
        return int(sent[0]["status"]), b"".join(one.get("body", b"") for one in sent[1:])


def _multipart(work: Path) -> Door:
    server = _Server(work)
    pictures = _pictures()

    def form(path: str, **fields: bytes) -> bytes:
        parts = b""
        for name, value in fields.items():
            more = b'; filename="x.png"\r\nContent-Type: image/png' if value[:1] == b"\x89" else b""
            parts += b'--q\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
                name.encode(),
                more,
                value,
            )
        return b"%s\ncontent-type: multipart/form-data; boundary=q\naccept: image/png\n\n%s--q--\r\n" % (
            path.encode(),
            parts,
        )

    rgb, ids = pictures["rgb.png"], pictures["ids.png"]
    seeds = [
        form("/v1/segment", image=rgb),
        form("/v1/refine", image=rgb, labels=ids),
        form("/v1/refine", image=rgb),
        form("/v1/points", image=rgb, points=b"[[3, 4, 1], [5, 5, 0]]"),
        form("/v1/points", image=rgb, points=b"[[1e999, NaN, 1]]"),
    ]
    return Door(seeds, server.ask)


def _kserve(work: Path) -> Door:
    server = _Server(work)
    image = np.arange(32 * 64 * 3, dtype=np.uint8).reshape(1, 32, 64, 3)
    about = {"name": "image", "datatype": "UINT8", "shape": list(image.shape)}
    plain = json.dumps({"id": "a", "inputs": [{**about, "data": image.reshape(-1).tolist()}]})
    sized = {**about, "parameters": {"binary_data_size": image.nbytes}}
    outputs = [{"name": "labels", "parameters": {"binary_data": True}}]
    binary = json.dumps({"inputs": [sized], "outputs": outputs})
    path, kind = server.infer.encode(), b"content-type: application/json"
    length = b"inference-header-content-length: %d" % len(binary)
    seeds = [
        b"%s\n%s\n\n%s" % (path, kind, plain.encode()),
        b"%s\n%s\n\n%s%s" % (path, length, binary.encode(), image.tobytes()),
        b"%s\ninference-header-content-length: 0\n\n%s" % (path, image.tobytes()),
        b"%s\n%s\ncontent-encoding: gzip\n\n%s" % (path, kind, gzip.compress(plain.encode())),
        b'/v2/repository/index\n%s\n\n{"ready": true}' % kind,
        b"%s\n%s\n\n%s" % (path, kind, b"[" * 20_000),
    ]

    def change(data: bytes, rng: Any, known: Sequence[bytes]) -> bytes:
        head, empty, body = data.partition(b"\n\n")
        start, end = body.find(b"{"), body.rfind(b"}") + 1
        if not 0 <= start < end or rng.random() < 0.4:
            return mutate.any_bytes(data, rng, known)
        document = mutate.documents(body[start:end], rng, known)
        if rng.random() < 0.8:
            head = head.replace(b"length: %d" % (end - start), b"length: %d" % len(document))
        return head + empty + document + body[end:]

    return Door(seeds, server.ask, change)


DOORS: dict[str, Callable[[Path], Door]] = {
    "recipes": _recipes,
    "label_sets": _label_sets,
    "manifest": _manifest,
    "facts": _facts,
    "npz": _npz,
    "zip": _packed,
    "onnx": _onnx,
    "tar": _tar,
    "images": _images,
    "label_maps": _label_maps,
    "weights": _weights,
    "prompts": _prompts,
    "ledger": _ledger,
    "multipart": _multipart,
    "kserve": _kserve,
}
