"""One run, many runs, and their record."""
