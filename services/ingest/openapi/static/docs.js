// Shows /openapi.json. Keys stay in this page: nothing is kept, and nothing is sent anywhere but here.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
