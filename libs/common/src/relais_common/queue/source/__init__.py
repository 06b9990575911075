"""A worker's steps: take, start, renew, append, finish, release."""
