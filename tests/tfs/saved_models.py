"""Writes small SavedModels, run as a program: TensorFlow is imported in a process of its own, not in pytest's.

    python -m tests.tfs.saved_models FOLDER

half_plus_two   versions 1 and 2 (y = x / 2 + 2, and + 3), with the signatures of TensorFlow Serving's own example:
                regress_x_to_y and classify_x_to_y take serialized examples
cifar           [-1, 32, 32, 3] to ten probabilities
texts           two outputs of the bytes that came in, one of which ends in _bytes
pair            two inputs, two outputs, and a signature `sum`
"""

from __future__ import annotations

import subprocess
import sys
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


def _modules(tf: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Modules of TensorFlow 2 with their signatures, by the name of the model."""

    class Network(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.random.stateless_normal([3072, 10], [1, 2]) / 50)

        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, "image")])
        def probabilities(self, image: Any) -> dict[str, Any]:
            return {"probabilities": tf.nn.softmax(tf.reshape(image / 255, [-1, 3072]) @ self.weights)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def echo(self, text: Any) -> dict[str, Any]:
            return {"said": text, "said_bytes": text}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "a"), tf.TensorSpec([None], tf.int32, "b")])
        def swap(self, a: Any, b: Any) -> dict[str, Any]:
            return {"b": b, "a": a}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "a")])
        def sum(self, a: Any) -> dict[str, Any]:
            return {"sum": tf.reduce_sum(a, 1)}

    network = Network()
    return {
        "cifar": (network, {"serving_default": network.probabilities}),
        "texts": (network, {"serving_default": network.echo}),
        "pair": (network, {"serving_default": network.swap, "sum": network.sum}),
    }


def _write(root: Path) -> None:
    import tensorflow as tf

    for version, more in ((1, 2.0), (2, 3.0)):
        _half_plus_two(tf, root / f"half_plus_two/{version}", more)
    (root / "half_plus_two/config.pbtxt").write_text(VERSIONS)
    for name, (module, signatures) in _modules(tf).items():
        tf.saved_model.save(module, str(root / f"{name}/1"), signatures=signatures)


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
