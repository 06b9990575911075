"""The HTTP and SSE front end of the queue. It is stateless, so any number of them can run."""
