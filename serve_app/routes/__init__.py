"""The other routes, one file a resource."""
