"""Training of the segmenter: warm-up and self-training."""
