"""Mending the teacher's labels with a promptable segmenter: folders of images and labels in, labels out."""
