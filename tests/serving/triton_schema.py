"""Triton's own schema of `config.pbtxt`, as its client library carries it."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import Any


@cache
def model_config() -> Any:
    """The class of `inference.ModelConfig`.

    The generated module is read rather than imported: it is made for protobuf 6, and a later one may be here.
    """
    from google.protobuf import descriptor_pool, message_factory

    name = "tritonclient/grpc/model_config_pb2.py"
    (module,) = (file for file in files("tritonclient") or () if file.as_posix() == name)
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    (added,) = (call for call in calls if getattr(call.func, "attr", "") == "AddSerializedFile")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(ast.literal_eval(added.args[0]))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def read_config(repository: Path, name: str) -> Any:
    """A model's config, parsed; unknown fields and wrong types are errors."""
    from google.protobuf import text_format

    text = (repository / "models" / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config()())
