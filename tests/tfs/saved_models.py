"""Writes small SavedModels, run as a program: TensorFlow is imported in a process of its own, not in pytest's.

    python -m tests.tfs.saved_models FOLDER

half_plus_two   versions 1 and 2 (y = x / 2 + 2, and + 3), with the signatures of TensorFlow Serving's own example:
                regress_x_to_y and classify_x_to_y take serialized examples
cifar           [-1, 32, 32, 3] to ten probabilities
texts           two outputs of the bytes that came in, one of which ends in _bytes
pair            two inputs, two outputs, and a signature `sum`
keras           a Keras file: y = 2 x
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSIONS = 'platform: "tensorflow_savedmodel"\nversion_policy { all {} }\n'


def make_saved_models(root: Path) -> None:
    """Write all of them below `root`."""
    subprocess.run(
        [sys.executable, "-m", "tests.tfs.saved_models", str(root)],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def _half_plus_two(tf: Any, folder: Path, more: float) -> None:
    """With TensorFlow 1's own signatures, which name what they are for."""
    v1, utils = tf.compat.v1, tf.compat.v1.saved_model.signature_def_utils
    with tf.Graph().as_default(), v1.Session() as session:
        half = v1.get_variable("half", initializer=0.5)
        plain = v1.placeholder(tf.float32, [None], "plain")
        serialized = v1.placeholder(tf.string, [None], "tf_example")
        x = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        y = x * half + more
        session.run(v1.global_variables_initializer())
        signatures = {
            "serving_default": utils.predict_signature_def({"x": plain}, {"y": plain * half + more}),
            "regress_x_to_y": utils.regression_signature_def(serialized, tf.reshape(y, [-1])),
            "classify_x_to_y": utils.classification_signature_def(serialized, None, y),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def _functions(tf: Any, weights: Any) -> dict[str, dict[str, Any]]:
    """Return functions of TensorFlow 2 by signature, by the name of the model."""

    def function(body: Callable[..., Any], *specs: tuple[list[int | None], Any, str]) -> Any:
        return tf.function(body, input_signature=[tf.TensorSpec(*each) for each in specs])

    def probabilities(image: Any) -> dict[str, Any]:
        return {"probabilities": tf.nn.softmax(tf.reshape(image / 255, [-1, 3072]) @ weights)}

    pair = ([None, 2], tf.float32, "a")
    return {
        "cifar": {"serving_default": function(probabilities, ([None, 32, 32, 3], tf.float32, "image"))},
        "texts": {"serving_default": function(lambda t: {"said": t, "said_bytes": t}, ([None], tf.string, "t"))},
        "pair": {
            "serving_default": function(lambda a, b: {"b": b, "a": a}, pair, ([None], tf.int32, "b")),
            "sum": function(lambda a: {"sum": tf.reduce_sum(a, 1)}, pair),
        },
    }


def _write(root: Path) -> None:
    import tensorflow as tf

    for version, more in ((1, 2.0), (2, 3.0)):
        _half_plus_two(tf, root / f"half_plus_two/{version}", more)
    (root / "half_plus_two/config.pbtxt").write_text(VERSIONS)
    (root / "half_plus_two/wharf.toml").write_text("labels = { stable = 1, canary = 2 }\n")
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_normal([3072, 10], [1, 2]) / 50)
    for name, signatures in _functions(tf, module.weights).items():
        tf.saved_model.save(module, str(root / f"{name}/1"), signatures=signatures)
    (root / "pair/wharf.toml").write_text("batch_size = 8\n")
    _keras(root / "keras")


def _keras(folder: Path) -> None:
    import keras

    folder.mkdir()
    double = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0))
    keras.Sequential([keras.Input((1,)), double]).save(folder / "model.keras")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
