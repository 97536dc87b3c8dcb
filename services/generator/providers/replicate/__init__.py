"""Creates images with Replicate."""
