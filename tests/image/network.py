"""A small convolutional network as a SavedModel, with a batch of images and what it answers in fp32.

    python -m tests.image.network FOLDER

Writes FOLDER/network/1, FOLDER/images.npy and FOLDER/logits.npy, in a process of its own: TensorFlow's import is not
for the tests' process. Large enough that oneDNN takes over all that it can.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, CLASSES = (32, 32, 3), 10


def build(folder: Path) -> None:
    """Write all three."""
    import tensorflow as tf

    random = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return tf.Variable(random.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:-1])).astype(np.float32))

    first, second, dense, last = weights(3, 3, 3, 32), weights(3, 3, 32, 64), weights(4096, 128), weights(128, CLASSES)
    biases = [tf.Variable(tf.zeros([count])) for count in (32, 64, 128)]

    def network(image: Any) -> dict[str, Any]:
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(image, first, 2, "SAME"), biases[0]))
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, second, 2, "SAME"), biases[1]))
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, 4096]), dense), biases[2]))
        return {"logits": tf.matmul(x, last)}

    call = tf.function(network, input_signature=[tf.TensorSpec([None, *SHAPE], tf.float32, "image")], autograph=False)
    module = tf.Module()
    module.variables_of_it = [first, second, dense, last, *biases]
    module.call = call
    tf.saved_model.save(module, str(folder / "network" / "1"), signatures={"serving_default": call})
    images = random.standard_normal((8, *SHAPE), np.float32)
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", call(tf.constant(images))["logits"].numpy())


if __name__ == "__main__":
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "DNNL_DEFAULT_FPMATH_MODE": "STRICT"}
    build(Path(sys.argv[1]))
