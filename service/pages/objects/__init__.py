"""The page of an object, and its light curve."""
