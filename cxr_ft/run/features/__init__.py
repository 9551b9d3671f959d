"""Compute what frozen weights make of an image once, and store it."""
