"""Data in: files and events become daily history."""
