"""Measurements: each compares Relais with something else in the same run, and prints ratios."""
