import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from label_studio_fakes import (
    key_point,
    payload,
)

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from label_studio_fakes import DiscPool, settings
from m2n2_backend.server.run import serve

class Loud(DiscPool):
    def close(self):
        print("pool closed", file=sys.stderr, flush=True)

serve(settings(port=int(sys.argv[2])), lambda settings: Loud())
"""


def test_serve_answers_says_where_it_listens_and_closes_the_model_on_a_signal() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    answer = httpx.post(f"http://127.0.0.1:{port}/predict", json=payload(key_point(150, 0)))
                    break
                except httpx.HTTPError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.1)
            assert answer.status_code == 422
            assert "coordinate 150" in answer.reason_phrase
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"listening on http://127.0.0.1:{port}, backbone discs" in log
    assert "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false" in log
    assert "pool closed" in log
    assert "Traceback" not in log
