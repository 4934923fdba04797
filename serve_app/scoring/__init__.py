"""POST /api/score: rank, reserve, answer, remember."""
