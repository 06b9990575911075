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

// How to begin. Only the browser knows under which address this server is reached.
async function showStart() {
  const { info } = await (await fetch("openapi.json")).json();
  const { path, body, any_key: anyKey } = info["x-relais-first-request"];
  const root = new URL(".", location.href).href.replace(/\/$/, "");
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  document.getElementById("base-url").textContent = `${root}/v1`;
  document.getElementById("key").textContent = anyKey
    ? "any: this server runs with ENV=dev"
    : "the one that the operator of this server gave you; below, it is in RELAIS_API_KEY";
  document.getElementById("curl").textContent = [
    `curl -N ${root}${path} \\`,
    `  -H "Authorization: Bearer ${anyKey ? "any" : "$RELAIS_API_KEY"}" -H 'Content-Type: application/json' \\`,
    `  -d '${quoted}'`,
  ].join("\n");
  document.getElementById("start").hidden = false;
}

showStart();
