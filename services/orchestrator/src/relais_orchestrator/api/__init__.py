"""The API: a package for each group of routes, with its declarations, handlers and schemas."""
