"""The edge: tokens, bodies, problems, the OpenAPI document, and what stands around every request."""
