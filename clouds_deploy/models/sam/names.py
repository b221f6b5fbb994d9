"""Names and constants of SAM's two graphs; without torch, for whatever runs a graph."""

from __future__ import annotations

IMAGE = "image"
SIZE = "size"
EMBEDDINGS = "image_embeddings"
"""The encoder's inputs and its output, which is the decoder's first input."""

INDEX = "image_index"
POINTS = "point_coords"
LABELS = "point_labels"
MASKS = "masks"
SCORES = "iou_predictions"
"""The decoder's other inputs and its outputs."""

PADDING, BACKGROUND, FOREGROUND, FIRST_CORNER, SECOND_CORNER = -1, 0, 1, 2, 3
"""Labels of points; a box is its upper left and its lower right corner."""
PROPOSALS = 3
"""Masks proposed for an ambiguous prompt; SAM's mask for unambiguous ones is not computed."""

RANDOM = "random"
"""Stands for random weights where a weight file is asked for: a dry run."""
