"""Triton's own schema of `config.pbtxt`.

`model_config.binpb` is the descriptor of `model_config.proto`, taken unchanged from `tritonclient` 2.73.0
(BSD-3-Clause): the package itself holds protobuf below 7, so that it cannot be in `dev`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("model_config.binpb")


@cache
def model_config() -> Any:
    """Give the class of `inference.ModelConfig`."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(FILE.read_bytes())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def read_config(repository: Path, name: str) -> Any:
    """Read a model's config; unknown fields and wrong types are errors."""
    from google.protobuf import text_format

    text = (repository / "models" / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config()())
