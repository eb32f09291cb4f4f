"""Raises while it loads its model."""


def model_fn(model_dir: str) -> None:
    raise FileNotFoundError("no weights here")
