"""Who may do what: tokens and the record of what was done, as rows."""
