"""Intervals, tests and sample sizes for runs that are evaluated on the same subjects."""
