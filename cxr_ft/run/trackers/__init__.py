"""Where a run can be followed, one file each, found by its name; see `cxr_ft.run.track`."""
