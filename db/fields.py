"""Which ids, currencies and amounts of money are valid. Needs only the standard library."""

import re

MOST_MICROS = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""

ID_PATTERN = r"(?!\.{1,2}$)[A-Za-z0-9._:\-]{1,64}"
"""For Python and JSON Schema; `.` and `..` would be other places in a path."""
ID = re.compile(ID_PATTERN)
ID_MOST_CHARACTERS = 64
ID_CHARACTERS = "".join(character for character in map(chr, range(128)) if ID.fullmatch(f"a{character}"))
ID_IN_WORDS = "an id has 1 to 64 characters of A-Z a-z 0-9 . _ : - and is not . or .."

CURRENCY_PATTERN = r"[A-Z]{3}"
CURRENCY = re.compile(CURRENCY_PATTERN)
