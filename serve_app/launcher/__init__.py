"""`make run`: all of Paceline on one machine, started, watched and stopped."""
