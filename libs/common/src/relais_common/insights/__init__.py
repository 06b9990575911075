"""KPIs: hourly rollups of traces, and the figures that are computed from them."""
