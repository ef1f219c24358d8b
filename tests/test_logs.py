"""Whatever strangers call their tasks, a record is one line of printable characters."""

from __future__ import annotations

import logging

from m2n2_backend.logs import MAX_LINE, MAX_LINES, PlainFormatter, Sparse

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


def test_warnings_of_one_kind_are_limited_and_the_next_one_tells_how_many_were_left_out() -> None:
    now = 100.0
    sparse, lines = Sparse(clock=lambda: now), list[str]()

    def log(level: int, number: int, status: int) -> None:
        record = logging.LogRecord("x", level, "f", 1, "%s: %d refused", (number, status), None)
        record.kind = status
        if sparse.filter(record):
            lines.append(record.getMessage())

    for number in range(1000):
        log(logging.WARNING, number, 401)
        log(logging.INFO, number, 401)
    log(logging.WARNING, 0, 503)
    assert len(lines) == MAX_LINES + 1000 + 1
    now += 61.0
    log(logging.WARNING, 1000, 401)
    log(logging.WARNING, 1001, 401)
    assert lines[-2:] == [
        f"1000: 401 refused (and {1000 - MAX_LINES} more like it were not logged)",
        "1001: 401 refused",
    ]
