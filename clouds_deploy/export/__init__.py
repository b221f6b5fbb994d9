"""From a trained run to a proven bundle."""
