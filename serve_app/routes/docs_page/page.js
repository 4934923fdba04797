"use strict";
const here = new URL(".", location.href); // ends with "/"; more than that behind a proxy with a prefix

// Dark where the reader prefers it.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

// The examples are the same for ever; what is sent from this page is new and happens now.
const FRESH = {request_id: name, event_id: name, occurred_at: () => new Date().toISOString()};
function name() {
  return `try-${Date.now().toString(36)}`;
}
function freshen(example) {
  for (const [key, value] of Object.entries(example ?? {})) {
    if (FRESH[key]) example[key] = FRESH[key]();
    else if (typeof value === "object") freshen(value);
  }
}
async function liveVersion() {
  const answer = await fetch(new URL("readyz", here));
  return answer.ok ? (await answer.json()).model_version : null;
}
async function freshenRequests(text) {
  const spec = JSON.parse(text);
  const version = await liveVersion();
  for (const operations of Object.values(spec.paths)) {
    for (const {requestBody, parameters} of Object.values(operations)) {
      freshen(requestBody?.content["application/json"].example);
      for (const one of parameters ?? []) if (version && one.name === "version") one.example = version;
    }
  }
  return JSON.stringify(spec);
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis],
  deepLinking: true,
  persistAuthorization: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 3, // down to the fields of a bid
  validatorUrl: null, // a foreign host's
  requestInterceptor: request => {
    if (!request.loadSpec) request.url = new URL(request.url.slice(location.origin.length + 1), here).href;
    return request;
  },
  responseInterceptor: async response => {
    const isDocument = response.ok && response.url === new URL("openapi.json", here).href;
    if (isDocument) response.text = await freshenRequests(response.text);
    return response;
  },
});
