"""One visit: image in, difference, association, one commit. The service's pixel code."""
