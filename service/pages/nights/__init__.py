"""The page of a night: its visits, the focal plane, the time of steps, failures and gaps."""
