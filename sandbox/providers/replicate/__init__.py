"""A stand-in for Replicate: models, predictions and the files they leave."""
