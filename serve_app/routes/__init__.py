"""The routes other than POST /api/score, one file per resource; `docs_page/` is what /docs shows."""
