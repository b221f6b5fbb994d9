"""The only clock, and what is made of its numbers."""
