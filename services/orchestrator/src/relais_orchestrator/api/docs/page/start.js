// Paths are relative to the page, so that they hold wherever a proxy serves it.
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The badge of an outside validator would send it the document's address.
  validatorUrl: null,
});
