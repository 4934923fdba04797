"""Predicts what a bid would bring: batches calls, caches predictions for the hour, swaps in new model versions."""
