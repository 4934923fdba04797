"""Turns rows of history into a feature matrix that only uses what was known the day before each row."""
