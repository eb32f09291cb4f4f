"""Tell Docker whether this container answers: exit 0 when GET /ping says 200 within two seconds, else raise.

Knows the port (SageMaker's variable before ours) and nothing else; the standard library is enough. The image's
HEALTHCHECK runs it; two seconds is the limit that SageMaker itself gives /ping.
"""

import os
import urllib.request


def port() -> str:
    """Return the port that the server was told to listen on."""
    return os.environ.get("SAGEMAKER_BIND_TO_PORT") or os.environ.get("WHARF_PORT") or "8080"


if __name__ == "__main__":
    # A proxy of the user's environment must not be asked for our own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"http://127.0.0.1:{port()}/ping", timeout=2).close()
