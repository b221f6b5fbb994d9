"""Labels and masks for images of any size."""
