"""One file a task; the protocol is `cxr_ft.model.protocols.Head`."""
