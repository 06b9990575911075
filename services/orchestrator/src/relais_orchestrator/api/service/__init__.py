"""Health probes, and the OpenAPI document."""
