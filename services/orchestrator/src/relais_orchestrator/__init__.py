"""The HTTP and SSE front of the queue: thin, stateless, as many as you like."""
