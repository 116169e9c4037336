"""Pictures of a difference."""
