"""What people read: pages and figures of nights and backtests."""
