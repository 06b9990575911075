"""The job: new traces into hourly rollups."""
