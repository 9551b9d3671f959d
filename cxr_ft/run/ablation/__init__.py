"""Run grids of trainings and tabulate them."""
