"""Refines a teacher's labels with a promptable segmenter: images and labels in, labels out."""
