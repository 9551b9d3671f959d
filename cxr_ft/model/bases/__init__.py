"""Read pretrained models: one file for each family, see `cxr_ft.model.protocols.Base`."""
