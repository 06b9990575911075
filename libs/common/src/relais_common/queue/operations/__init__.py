"""What operators see and do: queues, workers, dead letters."""
