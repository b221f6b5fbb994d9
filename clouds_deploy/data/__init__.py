"""Labelled images: synthetic, read, augmented, checked."""
