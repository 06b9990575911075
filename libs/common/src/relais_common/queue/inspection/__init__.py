"""The operators' steps: queues, workers, dead letters."""
