"""Measures how good a segmenter is."""
