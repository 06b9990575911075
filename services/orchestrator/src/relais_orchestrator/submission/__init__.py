"""From a checked request to a job in the queue."""
