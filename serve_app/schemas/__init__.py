"""Request and response schemas, one file per resource; the OpenAPI document is made from them."""
