"""λ and throttle: what a brand should pay for revenue, from what was seen and what came of it. Pure."""
