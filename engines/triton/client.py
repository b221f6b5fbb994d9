"""Label one image on a Triton server, or on `clouds-deploy serve`: both speak the KServe v2 protocol.

    pip install "tritonclient[http]" pillow numpy
    python client.py street.jpg --url localhost:8000 --model clouds --out labels.png
    python client.py street.jpg --url localhost:8000 --refine clouds_refine --out labels.png

The graph takes one size, which the server tells; the image is resized as far as it fits, and the rest is
filled with gray. Refinement takes any size and does all of this on the server.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from PIL import Image

GRAY = 127


def main() -> None:
    """Ask, and write what comes back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--model", default="clouds")
    parser.add_argument("--refine", help="the refining model, to be asked instead")
    parser.add_argument("--out", type=Path, default=Path("labels.png"))
    given = parser.parse_args()
    image = Image.open(given.image).convert("RGB")
    with triton.InferenceServerClient(given.url) as client:
        if given.refine:
            (labels,) = [ask(client, given.refine, np.asarray(image), "refined")]
        else:
            labels = label(client, given.model, image)
    Image.fromarray(labels).save(given.out)
    print(f"{given.out}: train ids {', '.join(map(str, np.unique(labels)))}")


def label(client: triton.InferenceServerClient, model: str, image: Image.Image) -> np.ndarray:
    """Letterbox, ask, and bring the labels back to the image's own size."""
    about = client.get_model_metadata(model)
    height, width = (int(size) for size in about["inputs"][0]["shape"][1:3])
    scale = min(height / image.height, width / image.width)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (width, height), (GRAY, GRAY, GRAY))
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR))
    labels = ask(client, model, np.asarray(canvas)[None], about["outputs"][0]["name"])[0]
    inside = Image.fromarray(labels[: inner[1], : inner[0]])
    return np.asarray(inside.resize(image.size, Image.Resampling.NEAREST))


def ask(client: triton.InferenceServerClient, model: str, image: np.ndarray, output: str) -> np.ndarray:
    """Send one tensor in binary, and get one back."""
    given = triton.InferInput("image", list(image.shape), "UINT8")
    given.set_data_from_numpy(np.ascontiguousarray(image), binary_data=True)
    wanted = triton.InferRequestedOutput(output, binary_data=True)
    return client.infer(model, [given], outputs=[wanted]).as_numpy(output)


if __name__ == "__main__":
    main()
