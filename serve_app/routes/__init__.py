"""The routes other than POST /api/score, one file per resource."""
