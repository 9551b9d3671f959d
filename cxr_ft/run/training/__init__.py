"""Train one run: the loop that every method shares, its steps, its checkpoints, and its processes."""
