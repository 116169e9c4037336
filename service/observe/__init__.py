"""What a process tells of itself: lines of its log, measures, whether it is ready."""
