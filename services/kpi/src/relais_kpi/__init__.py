"""`relais kpi`: traces into hourly rollups, rollups into reports."""
