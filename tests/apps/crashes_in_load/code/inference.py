"""Raises while it loads its model."""


def model_fn(model_dir: str) -> None:
    raise FileNotFoundError(f"no weights in {len(model_dir) > 0 and 'this folder'}")
