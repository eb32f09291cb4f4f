"""What holds for every model that is described: what the server's own settings and its environment say of models.

Made once, by `server` (or `cli`, which validates as a server would), and passed down; no room of the repository looks
at the environment itself. `layouts` and the rooms of the dialects read it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`environ` is the environment as far as SageMaker's and DJL's variables in it steer models.

    `device` is where models run that do not say it; `triton_backends` are those whose models tritonserver runs though
    we could run them.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    triton_backends: Collection[str] = ()
