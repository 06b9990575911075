"""`relais kpi`: roll up traces; report what was served, and how well."""
