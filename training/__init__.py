"""What the system learns. Nothing is imported here: LightGBM and pandas are loaded by whoever uses them."""
