"""What is trained, and which part of it: bases, heads, targets, tuning methods. Knows no data."""
