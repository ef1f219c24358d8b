"""``server/receiving.py`` and ``incoming.py`` override waitress' internals: an upgrade that moves one fails here."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from repository import ROOT
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

RELIED_ON = {
    WSGITask: "get_environment request",
    HTTPChannel: "task_class parser_class server request requests requests_lock will_close last_activity "
    "total_outbufs_len handle_close",
    TcpWSGIServer: "channel_class next_channel_cleanup active_channels task_dispatcher adj socket add_task "
    "del_channel readable handle_accept maintenance",
    ThreadedTaskDispatcher: "set_thread_count add_task shutdown",
    Adjustments: "ident recv_bytes cleanup_interval connection_limit max_request_header_size max_request_body_size "
    "inbuf_overflow outbuf_overflow outbuf_high_watermark log_socket_errors",
    HTTPRequestParser: "received parse_header close empty error completed headers headers_finished version path "
    "content_length chunked expect_continue body_rcv body_bytes_received",
    ChunkedReceiver: "buf control_line trailer",
    FixedStreamReceiver: "buf",
    OverflowableBuffer: "append buf strbuf",
}


def names_of(kind: type) -> set[str]:
    """The names that a class has, and those that its methods read or set."""
    methods = [one for _, one in inspect.getmembers(kind, inspect.isfunction)]
    return set(dir(kind)).union(*(method.__code__.co_names for method in methods))


@pytest.mark.parametrize("kind", RELIED_ON)
def test_waitress_has_the_names_that_the_server_overrides_and_reads(kind: type) -> None:
    missing = set(RELIED_ON[kind].split()) - names_of(kind)
    assert not missing, (
        f"waitress {version('waitress')} has no {', '.join(sorted(missing))} in {kind.__name__}: adapt "
        "m2n2_backend/server/receiving.py and incoming.py, or keep the range in pyproject.toml below this release"
    )


def test_the_range_of_waitress_ends_with_the_release_that_was_tested() -> None:
    assert '"waitress>=3.0,<3.1"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert version("waitress").startswith("3.0.")
