"""What one transaction changes, computed in memory before anything is written. Pure."""
