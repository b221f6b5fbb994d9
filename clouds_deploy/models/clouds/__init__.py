"""The method's network."""
