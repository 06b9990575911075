"""Files that clients upload and batches write, in MongoDB."""
