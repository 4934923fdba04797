"""The rules of money: no I/O, no clock, no Ray; all but the settings run on bare Python."""
