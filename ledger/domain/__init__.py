"""The rules of money: no I/O, no clock, no Ray; all but the settings need only the standard library."""
