"""A report for people and for programs: terminal table, HTML page, JSON, CSV."""
