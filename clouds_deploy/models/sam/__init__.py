"""The Segment Anything models: promptable segmenters that refine pseudo-labels."""
