"""The schema of `bundle.json`, with the limits that the C++ library has (`engines/cpp/src/documents.cpp`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clouds_deploy.artifacts.documents import Document
from clouds_deploy.models.clouds.names import SHARE, VOCABULARY

Side = Annotated[int, Field(ge=1, le=1 << 16)]
Extent = Annotated[int, Field(ge=1, le=1 << 30)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[list[Byte], Field(min_length=3, max_length=3)]
Text = Annotated[str, Field(max_length=4096)]
_NUMBERS = 1 << 32
"""Numbers in a tensor of one image, its batch aside."""
_WORDS = {VOCABULARY: 3, SHARE: 1}
"""Inputs of a text-headed graph beside the image, and their numbers of dimensions."""


class TensorDocument(Document):
    """An input or output of a graph: its name, numpy's name of its type, its shape."""

    name: Text
    dtype: Text
    shape: Annotated[list[Extent | None], Field(max_length=8)]

    @model_validator(mode="after")
    def _bounded(self) -> TensorDocument:
        numbers = 1
        for side in self.shape:
            numbers *= side or 1
        if numbers > _NUMBERS:
            raise ValueError("a tensor is too large")
        return self


class GraphDocument(Document):
    """Inputs and outputs of a graph."""

    inputs: Annotated[list[TensorDocument], Field(min_length=1, max_length=64)]
    outputs: Annotated[list[TensorDocument], Field(min_length=1, max_length=64)]


class EngineDocument(Document):
    """An engine that was built from a graph."""

    file: Text
    engine: Text
    version: Text = ""
    sha256: Text = ""
    sms: Annotated[list[Text], Field(max_length=64, default_factory=list)]
    version_compatible: bool = False


class SegmenterDocument(GraphDocument):
    """Facts of a segmenter's bundle."""

    height: Side
    width: Side
    mean_color: Color
    classes: Annotated[list[Text], Field(max_length=4096)]
    palette: Annotated[list[Color], Field(max_length=4096)]
    inference: Literal["exact", "fast"]
    precision: Text = "fp32"
    backbone_weights: Text
    random_weights: bool = False
    label_agreement: float
    recipe: Mapping[str, Any]
    engines: Annotated[list[EngineDocument], Field(max_length=256, default_factory=list)]

    @model_validator(mode="after")
    def _fits(self) -> SegmenterDocument:
        size = [None, self.height, self.width]
        image, labels, *scores = self.inputs[0], *self.outputs
        fits = image.dtype == labels.dtype == "uint8" and image.shape == [*size, 3] and labels.shape == size
        fits = fits and len(scores) <= 1 and all(s.dtype == "float32" and len(s.shape) == 4 for s in scores)
        fits = fits and all(None not in s.shape[2:] for s in scores)
        for more in self.inputs[1:]:
            fits = fits and more.dtype == "float32" and len(more.shape) == _WORDS.get(more.name)
        if not fits:
            raise ValueError("inputs or outputs of another shape")
        return self


class SamEncoderDocument(GraphDocument):
    """The encoder's graph, and the file that holds it."""

    file: Literal["encoder.onnx"] = "encoder.onnx"


class SamDecoderDocument(GraphDocument):
    """The decoder's graph, and the file that holds it."""

    file: Literal["decoder.onnx"] = "decoder.onnx"


class SamGraphsDocument(Document):
    """Both graphs of a SAM."""

    encoder: SamEncoderDocument
    decoder: SamDecoderDocument


class SamDocument(Document):
    """Facts of a SAM's bundle."""

    name: Text
    image_size: Side
    weights: Text
    graphs: SamGraphsDocument
    precision: Text = "fp32"
    engines: Annotated[list[EngineDocument], Field(max_length=256, default_factory=list)]
