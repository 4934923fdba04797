"""Publishes model versions, makes one live, and tells which is live or was at any time."""
