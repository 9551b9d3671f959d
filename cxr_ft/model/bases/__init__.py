"""One file a family of pretrained models; the protocol is `cxr_ft.model.protocols.Base`."""
