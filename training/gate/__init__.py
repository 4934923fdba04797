"""Compares the night's version (challenger) with the live one (champion), and decides whether it goes live."""
