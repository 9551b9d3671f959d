"""Put a task on a base: one file for each task, see `cxr_ft.model.protocols.Head`."""
