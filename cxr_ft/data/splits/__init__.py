"""Compile splits: rows selected by an integer program, subjects assigned to splits, files certified."""
