"""Triton's own clients, unmodified, against real servers."""
