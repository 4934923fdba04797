"""λ and throttle: what a brand pays for revenue, computed from demand and results. Pure."""
