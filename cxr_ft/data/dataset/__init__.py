"""Splits as torch data sets: rows with images, targets and texts, and how training sees them."""
