"""`GET /v1/kpis`: the KPIs of a period."""
