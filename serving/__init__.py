"""Wharf: a multi-model serving container behind the SageMaker multi-model contract."""

__version__ = "0.1.0"
