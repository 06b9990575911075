"""`relais kpi`: aggregates traces into hourly rollups, and rollups into reports."""
