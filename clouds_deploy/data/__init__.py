"""Labelled images: drawn, read, augmented, checked."""
