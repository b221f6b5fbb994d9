"""Training a promptable segmenter on drawn scenes (SAM, appendix A)."""
