"""From an archive to split CSVs and batches. Knows no model; torch only in `dataset.split_dataset`."""
