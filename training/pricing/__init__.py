"""Fits λ to logged opportunities, and replays recorded auctions through the live controller."""
