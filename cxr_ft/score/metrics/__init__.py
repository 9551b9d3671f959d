"""Metrics: one function each, undefined is None with a reason, never NaN or 0."""
