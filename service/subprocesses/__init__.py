"""Children of a process: started, stopped, swept."""
