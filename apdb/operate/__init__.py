"""What operators do with a database: archive, export, health, roles of readers, an embedded server."""
