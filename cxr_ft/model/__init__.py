"""Put a model together: a pretrained base, a head for the task and a fine-tuning method."""
