"""Precisions that a backend can be asked to compute in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator


def _renamed(name: Any) -> Any:
    return "fp32" if name == "f32" else name  # the earlier name, in recipes of older runs


Precision = Annotated[Literal["fp32", "bf16"], BeforeValidator(_renamed)]
"""`fp32` computes as the graph is written; `bf16` in bfloat16, where the backend can (OpenVINO)."""
