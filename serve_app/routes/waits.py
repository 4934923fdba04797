"""How long the routes wait for the ledger, in seconds."""

LEDGER_WAIT_S = 10.0
"""For an answer of the ledger."""
SYNC_BEFORE_READ_S = 1.0
"""Before figures are shown: for replicas to report the wins that the ledger does not know yet."""
SYNC_AFTER_WRITE_S = 2.0
"""After a change: for all replicas to hear of it, so that a brand can be scored anywhere once its PUT has returned."""
