"""The Segment Anything models: promptable segmenters that mend pseudo-labels."""
