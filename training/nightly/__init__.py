"""The nightly run: etl → features → fit → gate → λ → publish → swap → verify."""
