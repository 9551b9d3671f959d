"""Evaluate predictions from arrays and strings alone: metrics, statistics, fairness of a comparison."""
