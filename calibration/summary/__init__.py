"""Visit summaries: one row of components and quality numbers per detector."""
