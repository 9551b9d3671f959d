"""One file a tuning method; the protocol is `cxr_ft.model.protocols.Tuning`."""
