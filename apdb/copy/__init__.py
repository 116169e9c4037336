"""Rows in and out by COPY: values checked, encoded and decoded column by column."""
