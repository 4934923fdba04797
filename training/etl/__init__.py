"""Gets data in: imports files, and turns events into the daily history that training reads."""
