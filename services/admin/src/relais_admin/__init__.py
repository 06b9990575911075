"""`relais admin`: look at queues, workers and channels; cancel requests; replay or drop dead letters."""
