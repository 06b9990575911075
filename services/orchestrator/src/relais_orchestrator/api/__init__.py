"""The API: a room for each group of routes, with its declarations, handlers and schemas."""
