"""Writes what a fuzzer of the C++ readers begins with: small whole files of every kind that it is to damage.

`python -m tests.cpp.corpus OUT` makes `OUT/bundle` (documents, arrays, graphs) and `OUT/images`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from PIL import Image

from clouds_deploy.artifacts import MANIFEST
from clouds_deploy.bundles.bundle import FACTS, GRAPH
from clouds_deploy.bundles.vocabulary import FILE
from tests.cpp.toy import write_toy
from tests.cpp.toy_sam import write_toy_sam


def write_corpus(out: Path) -> None:
    """Write both folders; `out` is made here."""
    bundle, images = out / "bundle", out / "images"
    bundle.mkdir(parents=True)
    images.mkdir()
    toy, sam = write_toy(out / "toy", text=True, scores=True), write_toy_sam(out / "sam")
    for name in (MANIFEST, FACTS, FILE, GRAPH):
        (bundle / name).write_bytes((toy / name).read_bytes())
    (bundle / "sam.json").write_bytes((sam / FACTS).read_bytes())
    (bundle / "external.onnx").write_bytes(_external())
    for name, how in (("stored.npz", zipfile.ZIP_STORED), ("deflated.npz", zipfile.ZIP_DEFLATED)):
        (bundle / name).write_bytes(_arrays(how))
    for name, content in _images().items():
        (images / name).write_bytes(content)


def _external() -> bytes:
    """A graph whose weights lie in another file, in an initializer and in a branch."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], np.zeros(4, np.float32))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "b", [], [out])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.BOOL, [])], [out], [tensor]
    )
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def _arrays(how: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, array in {"names": np.arange(5, dtype=np.uint8), "b": np.ones((2, 3), np.float32)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=name == "b") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def _images() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3)).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {}
    for name, image, form, options in (
        ("rgb.png", rgb, "PNG", {}), ("turned.png", rgb, "PNG", {"exif": exif}),
        ("grey.png", rgb.convert("L"), "PNG", {}), ("palette.png", rgb.convert("P"), "PNG", {}),
        ("alpha.png", rgb.convert("RGBA"), "PNG", {}),
        ("deep.png", Image.fromarray(pixels[..., 0].astype(np.uint16) * 250), "PNG", {}),
        ("rgb.jpg", rgb, "JPEG", {}), ("turned.jpg", rgb, "JPEG", {"exif": exif}),
        ("progressive.jpg", rgb, "JPEG", {"progressive": True}), ("grey.jpg", rgb.convert("L"), "JPEG", {}),
        ("rgb.ppm", rgb, "PPM", {}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        made[name] = buffer.getvalue()
    return made


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
