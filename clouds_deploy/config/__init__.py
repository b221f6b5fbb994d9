"""Recipes and options: strict, frozen sections."""
