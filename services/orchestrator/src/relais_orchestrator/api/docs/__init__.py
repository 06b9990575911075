"""What every route takes and gives, as an OpenAPI 3.1 document; and pages that show it."""
