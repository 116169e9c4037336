"""Who is asking, and what they may do: tokens, OpenID Connect, sessions, limits, and the record of what was done."""
