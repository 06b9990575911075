"""`relais batch`: submit, watch, cancel and download batches."""
