"""Rows become a matrix, as of the day before each."""
