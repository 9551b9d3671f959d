"""Decode images to squares of uint8 and cache them as Arrow shards, on this machine or on a Ray cluster."""
