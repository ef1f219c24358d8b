"""Names that resolve to what nobody may be sent to, at once or a moment later."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from fake_label_studio import png
from fetch_trap import Prey, watched
from label_studio_fakes import key_point, payload, send, settings

from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

PRIVATE = "403 image host"


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["93.184.216.34", "127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["2606:4700::1111", "fd00:ec2::254"],
    ],
)
@pytest.mark.parametrize("host", ["innocent.test", "metadata.google.internal"])
def test_a_name_is_judged_by_all_of_its_addresses(
    prey: Prey, monkeypatch: pytest.MonkeyPatch, host: str, found: list[str]
) -> None:
    names(monkeypatch, host, [found])
    assert prey.asked_for(f"http://{host}:{prey.canary.port}/a.png").startswith(PRIVATE)


def test_a_name_that_changes_its_address_is_connected_to_at_the_one_that_was_checked(
    prey: Prey, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(monkeypatch, "rebind.test", [["127.0.0.3"], ["127.0.0.1"]])
    monkeypatch.setattr(
        "m2n2_backend.labelstudio.images.addresses.is_public", lambda address: str(address) == "127.0.0.3"
    )
    expected = {("127.0.0.1", prey.port), ("127.0.0.3", prey.canary.port)}
    url = f"http://rebind.test:{prey.canary.port}/a.png"
    with watched() as tried:
        status, phrase, _ = send(prey.port, "POST", "/predict", payload(key_point(), image=url))
    assert (status, phrase[:21]) == (424, "image download failed")
    assert set(tried) == expected
    assert asked == ["rebind.test"]
    assert prey.canary.visits == 0


def test_the_host_keeps_its_name_in_the_request_to_the_address_that_was_checked(
    prey: Prey, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(monkeypatch, "rebind.test", [["127.0.0.1"], ["127.0.0.3"]])
    image = ImageRef(f"http://rebind.test:{prey.studio.port}/open/a.png")
    assert MediaReader(settings(allowed_hosts="rebind.test")).fetch(image).data == png()
    assert asked == ["rebind.test"]
    assert prey.studio.requests[-1][1]["Host"] == f"rebind.test:{prey.studio.port}"


def names(monkeypatch: pytest.MonkeyPatch, host: str, answers: list[list[str]]) -> list[str]:
    """Lets a name resolve to one list of addresses after the other; returns the questions."""
    real, asked = socket.getaddrinfo, []

    def resolver(name: Any, port: Any, *more: Any, **options: Any) -> Any:
        if name != host:
            return real(name, port, *more, **options)
        asked.append(name)
        kind = {True: socket.AF_INET6, False: socket.AF_INET}
        found = answers[min(len(asked), len(answers)) - 1]
        return [(kind[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return asked
