"""Everything that learns from history. Nothing is imported here, since LightGBM and pandas take long to import."""
