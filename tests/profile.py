"""How much is tried of what is drawn at random: examples of Hypothesis, histories of the ledger.

`PACELINE_TEST_PROFILE` chooses: `desk` draws anew on every run, `ci` (chosen where `CI=true`) tries more and always
the same, `deep` is for a night. `PACELINE_TEST_HISTORIES` overrules the number of histories alone.
"""

import os

HISTORIES_BY_PROFILE = {"desk": 1000, "ci": 1000, "deep": 10_000}

PROFILE = os.environ.get("PACELINE_TEST_PROFILE") or (
    "ci" if os.environ.get("CI", "").lower() in ("1", "true") else "desk"
)
HISTORIES = int(os.environ.get("PACELINE_TEST_HISTORIES") or HISTORIES_BY_PROFILE[PROFILE])
