"""POST /api/score: ranks bids, reserves the winners' cost, answers, and remembers answers for repeated requests."""
