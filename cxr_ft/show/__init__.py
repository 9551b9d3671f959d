"""Charts and the page, from finished runs' results alone."""
