"""Tabulate the verdicts of a comparison for the page and its CSV files; one file an idea, `cells` shared by all."""
