"""`GET /v1/kpis`: key figures of a period."""
