"""Everything that answers HTTP requests: the application that `serve deploy` and `make run` start."""

from ledger.former_names import keep

keep(
    {
        "serve_app.entrance": "serve_app.http.response_coalescing",  # named in running clusters' environments
        "serve_app.predictor": "serve_app.prediction.predictor",
        "serve_app.ranking": "serve_app.prediction.expectation",
    }
)
