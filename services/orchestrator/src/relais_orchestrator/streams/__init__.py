"""Open streams: following a channel, writing it as server-sent events, telling the queue who reads, draining."""
