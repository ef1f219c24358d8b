"""Where a trusted host may send this server on to, and how often; every row a real /predict over a socket."""

from __future__ import annotations

import pytest
from fetch_trap import Prey
from label_studio_fakes import key_point, payload, send

PRIVATE = "403 image host"
AWAY = "403 the image's address leads to something other than http"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("where", "refusal"),
    [
        ("http://127.0.0.1:{port}/a.png", PRIVATE),
        ("//127.0.0.1:{port}/a.png", PRIVATE),
        ("http://169.254.169.254/latest/meta-data/", PRIVATE),
        ("http://u:secret@127.0.0.1:{port}/", "403 the image's address contains a user name"),
        ("file:///etc/passwd", AWAY),
        ("gopher://127.0.0.1:{port}/x", AWAY),
        ("http://8.8.8.8:65616/a.png", "424 image download failed: a redirect by http://"),
    ],
)
def test_a_trusted_host_cannot_redirect_to_where_nobody_may_go(
    prey: Prey, status: int, where: str, refusal: str
) -> None:
    answer = prey.asked_for(f"/away/{status}?to={where.replace('{port}', str(prey.canary.port))}")
    assert answer.startswith(refusal)


def test_a_chain_of_redirects_is_checked_at_its_end(prey: Prey) -> None:
    canary = f"http://127.0.0.1:{prey.canary.port}/a.png"
    assert prey.asked_for(f"/away/307?to=/away/302?to={canary}").startswith(PRIVATE)


def test_five_redirects_are_followed_and_no_more(prey: Prey) -> None:
    assert send(prey.port, "POST", "/predict", payload(key_point(), image="/hops/4"))[0] == 200
    assert prey.asked_for("/hops/5").startswith("424 image download failed: more than 5 redirects")
