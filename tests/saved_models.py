"""SavedModels and Keras files as people have them, good, old and odd: written by TensorFlow in a process of its own.

    python -m tests.saved_models FOLDER

One run makes all of them (8 s, most of it TensorFlow's import), so that the tests' own process never imports it. Every
number that a model answers with can be worked out by hand.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

HALF = "half"
"""y = x / 2 + 1 over rows of two, with variables; two signatures and two methods."""


def build(folder: Path) -> None:
    """Write every model below `folder`, each in a folder of its name."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    for maker in (_half, _pair, _texts, _odd, _table, _tf1, _broken, _keras):
        maker(tf, folder)


def _save(tf: Any, path: Path, signatures: dict[str, tuple[Callable[..., Any], list[Any]]], **parts: Any) -> None:
    """Save a module of `parts` whose functions, with specs of their inputs, are its signatures."""
    module = tf.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    functions = {}
    for name, (function, specs) in signatures.items():
        traced = tf.function(function, autograph=False)
        setattr(module, f"call_{name}", traced)
        functions[name] = traced.get_concrete_function(*specs)
    tf.saved_model.save(module, str(path), signatures=functions)


def _half(tf: Any, folder: Path) -> None:
    scale, shift = tf.Variable([0.5, 0.5]), tf.Variable(1.0)
    x = tf.TensorSpec([None, 2], tf.float32, "x")
    for version in (1, 3):
        factor = float(version)

        def call(x: Any, factor: float = factor) -> dict[str, Any]:
            return {"y": (x * scale + shift) * factor}

        def total(x: Any) -> dict[str, Any]:
            return {"sum": tf.reduce_sum(x, 1), "least": tf.reduce_min(x, 1)}

        signatures = {"serving_default": (call, [x]), "total": (total, [x])}
        _save(tf, folder / HALF / str(version), signatures, scale=scale, shift=shift)


def _pair(tf: Any, folder: Path) -> None:
    specs = [tf.TensorSpec([None, 3], tf.float32, "left"), tf.TensorSpec([None], tf.int64, "right")]

    def call(left: Any, right: Any) -> dict[str, Any]:
        return {"product": left * tf.cast(right, tf.float32)[:, None], "right_too": right}

    _save(tf, folder / "pair", {"serving_default": (call, specs)})


def _texts(tf: Any, folder: Path) -> None:
    words = tf.TensorSpec([None], tf.string, "words")

    def call(words: Any) -> dict[str, Any]:
        return {"upper": tf.strings.upper(words), "length": tf.strings.length(words)}

    _save(tf, folder / "texts", {"serving_default": (call, [words])})


def _odd(tf: Any, folder: Path) -> None:
    """Shapes and types that are no usual ones, and a signature whose operation fails on some inputs."""
    fixed = tf.TensorSpec([1, 2], tf.float32, "x")
    _save(tf, folder / "fixed", {"serving_default": (lambda x: {"y": x + 1}, [fixed])})
    scalar = [tf.TensorSpec([], tf.float32, "a"), tf.TensorSpec(None, tf.float32, "b")]
    _save(tf, folder / "scalar", {"serving_default": (lambda a, b: {"y": a * b}, scalar)})
    brain = tf.TensorSpec([None, 2], tf.bfloat16, "x")
    _save(tf, folder / "bfloat16", {"serving_default": (lambda x: {"y": x * 2}, [brain])})
    index = tf.TensorSpec([None], tf.int32, "index")
    values = tf.constant([10.0, 20.0, 30.0])
    _save(tf, folder / "picky", {"serving_default": (lambda index: {"y": tf.gather(values, index)}, [index])})
    named = {"ask": (lambda x: {"y": x + 1}, [fixed]), "tell": (lambda x: {"y": x + 2}, [fixed])}
    _save(tf, folder / "nameless", named)
    rows = tf.TensorSpec([None], tf.float32, "x")
    _save(tf, folder / "center", {"serving_default": (lambda x: {"y": x - tf.reduce_mean(x)}, [rows])})
    files = tf.TensorSpec([], tf.string, "path")
    in_python = tf.TensorSpec([None], tf.float32, "x")
    called = {"serving_default": (lambda x: {"y": tf.numpy_function(lambda y: y, [x], tf.float32)}, [in_python])}
    _save(tf, folder / "in_python", called)
    _save(tf, folder / "reads_files", {"serving_default": (lambda path: {"text": tf.io.read_file(path)}, [files])})


def _table(tf: Any, folder: Path) -> None:
    """A vocabulary that lies among the model's assets."""
    words = folder / "words.txt"
    words.write_text("zero\none\ntwo\n")
    start = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(start, -1)
    spec = tf.TensorSpec([None], tf.string, "word")
    _save(tf, folder / "table", {"serving_default": (lambda word: {"number": table.lookup(word)}, [spec])}, table=table)
    words.unlink()


def _tf1(tf: Any, folder: Path) -> None:
    """TensorFlow 1: a session's graph, with its own variables and signatures, or with none."""
    v1 = tf.compat.v1
    for name, tags, is_signed in (
        ("tf1", ["serve"], True),
        ("tf1_bare", ["serve"], False),
        ("trained", ["train"], True),
    ):
        with v1.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 2], "images")
            scale = v1.get_variable("scale", initializer=tf.constant([2.0, 3.0]), use_resource=False)
            y = x * scale
            session.run(v1.global_variables_initializer())
            describe = v1.saved_model.utils.build_tensor_info
            signature = v1.saved_model.build_signature_def(
                {"images": describe(x)}, {"scores": describe(y)}, "tensorflow/serving/predict"
            )
            signatures = {"predict_images": signature} if is_signed else {}
            builder = v1.saved_model.Builder(str(folder / name))
            builder.add_meta_graph_and_variables(session, tags, signatures)
            builder.save()


def _broken(tf: Any, folder: Path) -> None:
    """Copies of `half`, each with one thing wrong."""
    from tensorflow.core.protobuf import saved_model_pb2

    source = folder / HALF / "1"
    for name in ("custom_op", "no_variables", "no_shard", "no_index", "truncated", "short_shard"):
        shutil.copytree(source, folder / name)
    graph = saved_model_pb2.SavedModel.FromString((source / "saved_model.pb").read_bytes())
    for function in graph.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.op = {"Mul": "MyFancyMul"}.get(node.op, node.op)
    (folder / "custom_op/saved_model.pb").write_bytes(graph.SerializeToString())
    shutil.rmtree(folder / "no_variables/variables")
    next((folder / "no_shard/variables").glob("*.data-*")).unlink()
    (folder / "no_index/variables/variables.index").unlink()
    data = (source / "saved_model.pb").read_bytes()
    (folder / "truncated/saved_model.pb").write_bytes(data[: len(data) // 2])
    shard = next((folder / "short_shard/variables").glob("*.data-*"))
    shard.write_bytes(shard.read_bytes()[:3])


def _keras(tf: Any, folder: Path) -> None:
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(1)
    one = keras.Sequential([keras.Input((2,)), layers.Dense(1, kernel_initializer="ones")])
    one.save(_in(folder / "keras_one") / "model.keras")
    one.save(_in(folder / "keras_old") / "model.h5")
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    both = keras.Model({"a": a, "b": b}, {"sum": layers.Add()([a, b]), "difference": layers.Subtract()([a, b])})
    both.save(_in(folder / "keras_dicts") / "model.keras")
    code = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: ops.add(x, 1))])
    code.save(_in(folder / "keras_lambda") / "model.keras")
    (_in(folder / "keras_cut") / "model.keras").write_bytes((folder / "keras_one/model.keras").read_bytes()[:900])


def _in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def build_large(path: Path, size_bytes: int) -> None:
    """Write a SavedModel of about so many bytes of weights: y = the mean of x and of all weights, which are 1."""
    import tensorflow as tf

    weights = tf.Variable(tf.ones([size_bytes // 4]))
    x = tf.TensorSpec([None], tf.float32, "x")
    _save(tf, path, {"serving_default": (lambda x: {"y": x + tf.reduce_mean(weights)}, [x])}, weights=weights)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        build_large(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        build(Path(sys.argv[1]))
