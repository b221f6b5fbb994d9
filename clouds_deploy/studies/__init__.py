"""Whole experiments made of verbs, with their reports."""
