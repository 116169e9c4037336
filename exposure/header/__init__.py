"""Header cards: read when asked for, by rules of an instrument file, times among them."""
