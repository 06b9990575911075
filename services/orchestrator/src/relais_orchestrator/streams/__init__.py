"""Open streams: following channels, server-sent events, reporting readers, draining."""
