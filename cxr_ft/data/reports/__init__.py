"""Cut radiology reports into sections, and make the text columns of the splits."""
