"""Exit status 0 while the backend of this container answers /health with 200; its reason otherwise."""

from __future__ import annotations

import base64
import os
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 4


def main() -> str | None:
    """Ask once, with the server's own port and credentials.

    Returns:
        What is wrong, None where nothing is.
    """
    request = urllib.request.Request(f"http://127.0.0.1:{os.environ.get('M2N2_PORT') or 9090}/health")
    user, password = os.environ.get("M2N2_BASIC_AUTH_USER"), os.environ.get("M2N2_BASIC_AUTH_PASSWORD")
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
    # A proxy that the environment names is for downloads, not for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}"
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
