"""HTTP handling that all routes share: tokens, request bodies, problem responses, access log, OpenAPI document."""
