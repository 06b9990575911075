"""Runtimes that run a model's transformer in place of torch, and the choice between them."""
