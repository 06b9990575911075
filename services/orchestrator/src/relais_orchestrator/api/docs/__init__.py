"""The OpenAPI 3.1 document of all routes, and the page that shows it."""
