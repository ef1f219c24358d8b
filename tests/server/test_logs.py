"""Whatever strangers call their tasks, a record is one line of printable characters."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from label_studio_fakes import send
from listening import web

from m2n2_backend.logs import MAX_A_MINUTE, MAX_LINE, FloodFilter, PlainFormatter, log_to_stderr

FORMATTER = PlainFormatter("%(levelname)s %(message)s")


def line(message: str, *arguments: object, error: Exception | None = None) -> str:
    info = (type(error), error, None) if error else None
    return FORMATTER.format(logging.LogRecord("x", logging.WARNING, "f", 1, message, arguments, info))


def test_line_ends_and_escape_codes_are_shown_and_not_obeyed() -> None:
    forged = line("task %s", "7\nCRITICAL all is lost\r\x1b[2J\u2028\u202e\x9b\ud800")
    assert forged == "WARNING task 7\\nCRITICAL all is lost\\r\\x1b[2J\\u2028\\u202e\\x9b\\ud800"


def test_other_scripts_are_left_as_they_are() -> None:
    assert line("Größe 猫 Кошка") == "WARNING Größe 猫 Кошка"


def test_a_line_is_cut() -> None:
    cut = line("%s", "\x1b" * 3_000_000)
    assert len(cut) <= 4 * MAX_LINE + 100
    assert cut.endswith("(3000008 characters)")


def test_no_line_of_a_traceback_can_be_taken_for_a_record() -> None:
    first, *others = line("failed", error=ValueError("x\nCRITICAL forged\x1b[0m")).splitlines()
    assert first == "WARNING failed"
    assert others
    assert all(other.startswith("  ") for other in others)
    assert "\x1b" not in "".join(others)


class Log:
    """What the root logger writes, five lines of a kind in a minute; the minute ends when the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written = io.StringIO()
        self._due: list[Callable[[], None]] = []
        monkeypatch.setattr("threading.Timer", self._later)
        self.handler = logging.StreamHandler(self._written)
        self.handler.addFilter(FloodFilter(5))

    def _later(self, seconds: float, function: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        assert seconds == 60.0
        return SimpleNamespace(start=lambda: self._due.append(partial(function, *arguments)))

    def end_of_the_minute(self) -> None:
        due, self._due = self._due, []
        for each in due:
            each()

    @property
    def lines(self) -> list[str]:
        return self._written.getvalue().splitlines()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    log = Log(monkeypatch)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # as log_to_stderr has it
    logging.getLogger().addHandler(log.handler)
    yield log
    logging.getLogger("waitress.queue").setLevel(logging.NOTSET)
    logging.getLogger().removeHandler(log.handler)


def test_refusals_that_a_stranger_causes_at_will_are_a_few_lines_and_a_count(log: Log) -> None:
    with web(guarded=True) as served:
        for _ in range(300):
            assert send(served.port, "GET", f"/{'x' * 1000}")[0] == 401
    assert len(log.lines) == 5
    log.end_of_the_minute()
    assert log.lines[5].startswith("and 295 more in the last minute, such as: GET /xxx")
    assert sum(len(line) for line in log.lines) < 10_000
    log.end_of_the_minute()
    assert len(log.lines) == 6


def test_a_flood_of_one_kind_hides_no_other_line(log: Log) -> None:
    logger = logging.getLogger("m2n2_backend.test")
    for number in range(1000):
        logger.warning("refused %d", number, extra={"kind": "status 401"})
        logging.getLogger("waitress").warning("Client %d is gone", number)
    logger.warning("refused for another reason", extra={"kind": "status 422"})
    for number in range(100):
        logger.warning("clicks %d", number)
    assert "refused for another reason" in log.lines
    assert len([line for line in log.lines if line.startswith("clicks")]) == 100
    assert len([line for line in log.lines if line.startswith(("refused", "Client"))]) == 11
    log.end_of_the_minute()
    assert log.lines[-2:] == [
        "and 995 more in the last minute, such as: refused 0",
        "and 995 more in the last minute, such as: Client 0 is gone",
    ]
    logger.warning("refused again", extra={"kind": "status 401"})
    assert log.lines[-1] == "refused again"


def test_the_servers_own_log_is_limited(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = logging.getLogger().level
    log_to_stderr("WARNING")
    for number in range(1000):
        logging.getLogger("m2n2_backend.test").warning("refused %d", number, extra={"kind": "status 401"})
    logging.getLogger().setLevel(before)
    assert len(capfd.readouterr().err.splitlines()) == MAX_A_MINUTE
