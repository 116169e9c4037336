"""Commands about the Rubin middleware: a Butler's repository, and BPS."""
