"""A model's trees: the libraries that grow them, their text format, and the kernel that evaluates them fast."""
