"""What the environment tells a serving script, under the older toolkit's names.

The model's folder is the worker's working directory, as it is when this is imported: many models share a server, and
none of them is in /opt/ml/model. The training half is not here. People's scripts import it, seldom more.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import content_types

model_dir = str(Path.cwd())
code_dir = str(Path.cwd() / "code")


class ServingEnv:
    """The settings of serving: the script, the answer's type, the model's folder."""

    def __init__(self) -> None:
        """Read the environment as it is now."""
        self.module_name = os.environ.get("SAGEMAKER_PROGRAM", "inference.py").removesuffix(".py")
        self.default_accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", content_types.JSON)
        self.model_dir = model_dir
