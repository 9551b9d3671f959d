"""Evaluate a model: inference on a split, metrics, verification in a fresh process, and data it was not trained on."""
