"""The toolkit's logger, under its name.

Where its lines go is not known here: what a worker writes is in the server's log. People's scripts call `get_logger`.
"""

from __future__ import annotations

import logging


def get_logger() -> logging.Logger:
    """Return the logger `sagemaker-inference`."""
    return logging.getLogger("sagemaker-inference")
