"""The way of one request, and all that `serve deploy` and `make run` start. Nothing of it is imported here."""

from ledger.former_names import keep

keep(
    {
        "serve_app.entrance": "serve_app.http.response_coalescing",  # clusters' environments name it
        "serve_app.predictor": "serve_app.prediction.predictor",
        "serve_app.ranking": "serve_app.prediction.expectation",
    }
)
