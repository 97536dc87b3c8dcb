// Shows /openapi.json. Keys stay in this page: nothing is stored, and requests go only to this server.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
