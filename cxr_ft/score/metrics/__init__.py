"""Metrics of scores and of texts; `registry` lists them, and one more file here is one more metric."""
