"""Fits the trees, in this process or on Ray Train."""
