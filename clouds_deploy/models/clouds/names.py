"""Names of the segmenter graph's inputs and outputs; without torch, for whatever runs a graph."""

from __future__ import annotations

INPUT = "image"
LABELS = "labels"
SCORES = "scores"
VOCABULARY = "vocabulary"
SHARE = "class_share"
