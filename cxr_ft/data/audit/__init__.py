"""Checks on splits of any origin: leaks between splits, near-duplicate texts, labels predictable without the image."""
