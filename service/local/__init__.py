"""A whole service on one machine: demo, night, up."""
