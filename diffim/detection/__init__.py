"""What is found on a difference: peaks, streaks, glints, cosmic rays, residuals of stars, blank places."""
