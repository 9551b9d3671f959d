"""Show runs side by side: verdicts, tables, charts and one page, from records and predictions alone."""
