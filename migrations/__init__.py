"""Alembic revisions of the database, and how they are run.

Imports: ``apdb``.
"""
