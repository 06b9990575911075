"""HTTP concerns of all routes: bodies, errors, request ids, proxies, and bounds per client."""
