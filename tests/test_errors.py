"""The tree of errors, and what a message consists of."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from m2n2_backend import errors
from m2n2_backend.errors import BackboneUnavailable, M2N2Error, one_line


def test_a_message_is_finding_and_cure_also_in_another_process() -> None:
    error = pickle.loads(pickle.dumps(BackboneUnavailable("no weights", "fetch them")))

    assert (str(error), error.finding, error.cure) == ("no weights; fetch them", "no weights", "fetch them")
    assert (str(M2N2Error("busy")), M2N2Error("busy").cure) == ("busy", "")


def test_the_tree_in_the_docstring_has_every_error_below_its_parent() -> None:
    below: list[type] = []
    drawn = dict[str, type]()
    for indent, name in re.findall(r"^    ([│ ]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        kind = getattr(errors, name)
        drawn[name] = ([M2N2Error, *below[: len(indent) // 4]])[-1]
        below[len(indent) // 4 :] = [kind]

    defined = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind is not M2N2Error}
    assert drawn == {name: kind.__bases__[0] for name, kind in defined.items()}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError("a word that is cut"), "a word that …"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error, 14) == line
