"""The published `Apdb` interface over the same tables."""
