"""Limits of a labeling config, which are checked before a slow parser sees it."""

from __future__ import annotations

from typing import NoReturn
from xml.parsers import expat

from m2n2_backend.errors import InvalidLabelConfig

MAX_CHARS = 500_000
"""Longest config that is parsed; one with 300 labels in three controls has about 40,000 characters."""

MAX_TAGS = 6_000
"""Most tags; 1,200 labels in three controls are 3,600."""

MAX_ATTRIBUTES = 64
"""Most attributes of a tag; Label Studio's tags know about twenty."""


def require_small(xml: str) -> None:
    """Refuse what would keep a parser busy: lxml needs the square of some texts' lengths, expat does not.

    Raises:
        InvalidLabelConfig: It is not XML, has a document type declaration, or exceeds one of the limits above.
    """
    if len(xml) > MAX_CHARS:
        raise InvalidLabelConfig(f"the labeling config has more than {MAX_CHARS} characters")
    tags = 0

    def opened(name: str, attributes: list[str]) -> None:
        nonlocal tags
        tags += 1
        if tags > MAX_TAGS:
            raise InvalidLabelConfig(f"the labeling config has more than {MAX_TAGS} tags")
        if len(attributes) > 2 * MAX_ATTRIBUTES:  # names and values
            raise InvalidLabelConfig(
                f"<{name[:50]}> of the labeling config has more than {MAX_ATTRIBUTES} attributes"
            )

    parser = expat.ParserCreate()
    parser.ordered_attributes = True
    parser.StartElementHandler = opened
    # The SDK's parser expands entities; none can be declared without a document type declaration.
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(xml.lstrip(), True)
    except (expat.ExpatError, UnicodeError) as error:
        raise InvalidLabelConfig(f"the labeling config cannot be parsed: {error}") from error


def _refuse_doctype(*_: object) -> NoReturn:
    raise InvalidLabelConfig("the labeling config has a document type declaration: remove <!DOCTYPE …>")
