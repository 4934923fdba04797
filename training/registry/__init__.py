"""Which version is live, which was, and how one becomes it."""
