"""λ from logged opportunities, and the live controller tried on recorded auctions."""
