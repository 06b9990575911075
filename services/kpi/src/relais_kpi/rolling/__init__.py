"""The job that aggregates new traces into hourly rollups."""
