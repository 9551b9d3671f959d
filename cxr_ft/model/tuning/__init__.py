"""Fine-tune a model: one file for each method, see `cxr_ft.model.protocols.Tuning`."""
