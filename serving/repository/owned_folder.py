"""A folder that belongs to one process: locked for as long as that lives, trusted only from ourselves or root.

Knows nothing of what lies in it. The store of unpacked archives and the environments of models each own one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


def lock_folder(folder: Path, lock_name: str, what: str) -> int:
    """Take `folder` for this process by locking the file `lock_name` in it; return the open file that holds the lock.

    `what` says what is done there ("unpacked"). Raises `PermissionError` (an `OSError`) for a folder of another user,
    who could change what is in it, or of another server that runs.
    """
    if folder.stat().st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, f"it belongs to another user, who could change what is {what} there")
    owner = os.open(folder / lock_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # A record lock ends with this process and is not inherited by the workers that it forks, unlike flock's.
        fcntl.lockf(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(owner)
        raise PermissionError(errno.EBUSY, "another server uses it") from None
    return owner
