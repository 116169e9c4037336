"""Alembic revisions of the database. Imported by nobody; run by ``alertprod apdb migrate``."""
