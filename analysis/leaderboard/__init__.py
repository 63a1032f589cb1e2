"""Runs and published tables side by side; imported from outside: `write.write_leaderboard`."""
