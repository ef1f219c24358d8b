"""The model's process is stopped for twelve seconds, as by swap, a paused machine or a frozen container.

Clicks come 6.5, 8 and 10 seconds after the stop. Each should be answered a moment after the process goes on, and no
process should be started again for it. The same once more with the web process stopped in its place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import under_attack as rig

STOPPED_SECONDS = 12.0
CLICKS_AT = (6.5, 8.0, 10.0)


def resident_pages(pid: int) -> int:
    """Pages of memory that a process holds; the model's holds the most below the web process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])


def stop(server: rig.Running, pid: int) -> dict[str, Any]:
    """Stop a process, click meanwhile; how long each click took, and with which status it ended."""
    before = sorted(server.processes())
    started = time.monotonic()
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        with suppress(ProcessLookupError):  # an impatient server has ended it
            os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(STOPPED_SECONDS, go_on)
    timer.start()

    def click(index: int) -> tuple[float, int, str]:
        time.sleep(CLICKS_AT[index])
        body = rig.question(server.put(f"{pid}-{index}.jpg", rig.picture(pid + index)), [rig.key_point(40, 40)])
        asked = time.monotonic()
        status, said = server.call("POST", "/predict", body)
        return time.monotonic() - asked, status, "" if status == 200 else said

    answers = rig.at_once(len(CLICKS_AT), click)
    timer.join()
    return {
        "click_s": [round(seconds, 2) for seconds, _, _ in answers],
        "after_the_stop_s": [
            round(at + seconds - STOPPED_SECONDS, 2) for at, (seconds, _, _) in zip(CLICKS_AT, answers, strict=True)
        ],
        "status": [status for _, status, _ in answers],
        "said": sorted({said for _, _, said in answers if said}),
        "all_s": round(time.monotonic() - started, 1),
        "same_processes": sorted(server.processes()) == before,
        "health": server.call("GET", "/health", timeout=5.0)[1],
    }


def main() -> None:
    """Print both figures."""
    with rig.running() as server:
        web, *below = server.processes()
        model = max(below, key=resident_pages)
        rig.report("model process stopped", stop(server, model))
        rig.report("web process stopped", stop(server, web))


if __name__ == "__main__":
    main()
