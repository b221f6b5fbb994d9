"""Measuring how good a segmenter is."""
