"""Methods that learn from preferences without sampling on the way, and fine-tuning on the best of samples."""
