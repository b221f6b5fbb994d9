"""Bundles: exported graphs with their facts, references and evidence."""
