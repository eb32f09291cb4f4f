"""Raises while it is imported."""

raise ValueError("no such luck at import")
