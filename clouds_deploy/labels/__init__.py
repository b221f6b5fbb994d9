"""Label sets: names, ids, colours and groups of classes; the default is Cityscapes' 19."""

from __future__ import annotations

from clouds_deploy.labels.cityscapes import (
    CITYSCAPES,
    CLASSES,
    NAMES,
    NUM_CLASSES,
    SYNTHIA_13,
    SYNTHIA_16,
    cityscapes_table,
    palette,
    train_id_table,
)
from clouds_deploy.labels.label_set import (
    IGNORE,
    LARGEST,
    UNKNOWN_ID,
    LabelClass,
    LabelSet,
    label_set,
    named_set,
)
from clouds_deploy.labels.shipped import SHIPPED, chosen_label_set, load_label_set, shipped_set

__all__ = [
    "CITYSCAPES",
    "CLASSES",
    "IGNORE",
    "LARGEST",
    "NAMES",
    "NUM_CLASSES",
    "SHIPPED",
    "SYNTHIA_13",
    "SYNTHIA_16",
    "UNKNOWN_ID",
    "LabelClass",
    "LabelSet",
    "chosen_label_set",
    "cityscapes_table",
    "label_set",
    "load_label_set",
    "named_set",
    "palette",
    "shipped_set",
    "train_id_table",
]
