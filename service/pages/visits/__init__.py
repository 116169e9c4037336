"""The page of a ccdVisit, and its images."""
