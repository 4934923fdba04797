"""The contract, one file a resource: what is accepted, what is answered. The OpenAPI document is made from it."""
