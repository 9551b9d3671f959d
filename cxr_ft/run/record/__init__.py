"""Record a run: its result, environment, saved model, model card and export."""
