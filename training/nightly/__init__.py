"""The night's pipeline: etl → features → fit → gate → λ → publish → swap → verify."""
