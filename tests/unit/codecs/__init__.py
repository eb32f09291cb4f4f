"""Tests of bytes to tensors and back."""
