"""The page on which people label detections by keys, and the labels over HTTP."""
