"""HTTP, whatever the route: bodies, errors, request ids, proxies, and bounds on what one client may hold."""
