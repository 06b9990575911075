"""Simulated traffic, to try reports and to measure the job."""
