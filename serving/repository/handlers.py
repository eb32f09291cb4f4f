"""Who handles a model: finds the `HandlerSpec` of a folder, or that it is served in process.

The steps of `layouts` that concern handlers, with its numbers:

2. The configuration (wharf.toml, config.pbtxt) names a format or a file: it is believed.
3. Triton's Python backend: config.pbtxt, or a version's model.py with TritonPythonModel.
4. DJL: serving.properties, or a model.py with handle(inputs).
5. SageMaker: code/inference.py or inference.py, or what SAGEMAKER_PROGRAM names; beside a model.pt too, as people ship
   them.
6. TensorFlow's SavedModel, then plain files of scikit-learn, XGBoost, LightGBM, Keras and Hugging Face.

Nothing of a model is imported or unpickled. Called by `layouts` alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving.repository.djl_layout import find_djl, is_djl_script
from serving.repository.engine_layout import ENGINE, find_engine
from serving.repository.folders import SAVED_MODEL_FILE
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.plain_files import plain_dialect
from serving.repository.plain_layout import find_plain, plain
from serving.repository.python_files import look
from serving.repository.sagemaker_layout import find_sagemaker
from serving.repository.saved_model_layout import SAVED_MODEL, find_saved_model
from serving.repository.serving_properties import FILE_NAME
from serving.repository.triton_layout import find_triton
from serving.repository.wharf_toml import DIALECTS


def find_handler(folder: ModelFolder) -> Found | None:
    """Return what handles `folder`, or how its configuration is completed; None where it is served in process.

    Raises `InvalidArtifactError` for what is configured and not there, or not served.
    """
    found = _found(folder)
    if folder.find(FILE_NAME) is None or (found is not None and FILE_NAME in found.sources):
        return found
    found = found or Found(folder.config)
    idle = f"{FILE_NAME} is not read: another configuration of '{folder.name}' says what it is, and it is not DJL's."
    return replace(found, warnings=(*found.warnings, idle))


def _found(folder: ModelFolder) -> Found | None:
    file = folder.named(folder.config.file) if folder.config.file is not None else None
    if folder.config.format in DIALECTS:  # 2
        return _configured(folder, folder.config.format, file)
    if folder.config.format is not None:
        return None
    if file is not None:
        return _by_file(folder, file)
    found = find_triton(folder) or find_djl(folder) or find_sagemaker(folder)  # 3, 4, 5
    return found or find_saved_model(folder) or find_plain(folder)  # 6


def _configured(folder: ModelFolder, dialect: str, file: Path | None) -> Found | None:
    if dialect == "triton_python":
        return find_triton(folder, file, is_named=True)
    if dialect == "djl":
        return find_djl(folder, file, is_named=True)
    if dialect in ("sagemaker", "tensorflow"):
        return find_sagemaker(folder, file, dialect)
    if dialect == ENGINE:
        return find_engine(folder)
    if dialect == SAVED_MODEL:
        return find_saved_model(folder, is_named=True)
    return find_plain(folder, dialect) if file is None else plain(folder, file, dialect)


def _by_file(folder: ModelFolder, file: Path) -> Found | None:
    if plain_dialect(file.name):
        return plain(folder, file)
    if file.name == SAVED_MODEL_FILE:
        return find_saved_model(folder)
    if file.suffix != ".py":
        return None
    if look(file).defines("TritonPythonModel"):
        return find_triton(folder, file)
    return find_djl(folder, file, is_named=True) if is_djl_script(file) else find_sagemaker(folder, file)
