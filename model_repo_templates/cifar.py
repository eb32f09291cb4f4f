"""A classifier of CIFAR's pictures as TensorFlow keeps it: a SavedModel with one version, random from a seed. 1 MB."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def build_savedmodel(folder: Path) -> None:
    """Write `cifar_savedmodel`: 1/saved_model.pb and its variables; [-1, 32, 32, 3] in, ten probabilities out."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu")]
    inputs = keras.Input((32, 32, 3), name="inputs")
    net = keras.Sequential([inputs, *body, layers.Flatten(), layers.Dense(10, activation="softmax")])
    net.export(str(folder / "1"), verbose=False)
