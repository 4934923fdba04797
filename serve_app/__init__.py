"""The way of one request, and all that `serve deploy` and `make run` start. Nothing is imported here."""
