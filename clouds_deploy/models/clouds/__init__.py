"""The CLOUDS network."""
