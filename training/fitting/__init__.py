"""Trees are learned, in process or on Ray Train."""
