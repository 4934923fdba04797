"""What one transaction does to the books, decided in memory before anything is written. Pure."""
