"""What a worker does with jobs: take, start, renew, append, finish, release."""
