"""A model's trees: the libraries that grow them, their text, and the kernel that evaluates them."""
