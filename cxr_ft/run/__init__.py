"""Run what data and model make possible: train, evaluate, compare by ablation, measure cost, and record the result."""
