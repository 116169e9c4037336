"""Tables, columns and partitions as the published schema files name them."""
