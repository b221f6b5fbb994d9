"""Engines: graphs compiled ahead of time for named GPUs, and what has to hold before one is loaded."""
