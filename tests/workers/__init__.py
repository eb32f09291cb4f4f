"""Tests of people's Python: dialects, processes, and models that misbehave."""
