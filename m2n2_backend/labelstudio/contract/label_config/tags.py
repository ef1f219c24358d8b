"""The text of a labeling config → its tags, read as Label Studio's editor reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config.task_value import FLAG, INDEX, as_written
from m2n2_backend.labelstudio.contract.label_config.xml_limits import require_small

MAX_NAMED = 500
"""Most tags with a name; labels have none."""


@dataclass(slots=True)
class ConfigTag:
    """One tag that has a name, with the labels below it.

    Attributes:
        tag: As it is written, such as ``BrushLabels``.
        attributes: By their names in lower case. Inside of a ``<Repeater>``, ``INDEX`` stands for its flag.
        labels: The attributes of the ``<Label>`` tags below it, at any depth.
        repeated: The ``on`` of the ``<Repeater>`` around it, None outside of one.
        nested: Whether a second ``<Repeater>`` is around the first one.
    """

    tag: str
    attributes: Mapping[str, str]
    labels: list[Mapping[str, str]] = field(default_factory=list)
    repeated: str | None = None
    nested: bool = False

    @property
    def name(self) -> str:
        """The tag's name; ``INDEX`` stands for the index of a ``<Repeater>``."""
        return self.attributes["name"]

    @property
    def kind(self) -> str:
        """The tag in lower case, as the editor compares them."""
        return self.tag.lower()

    def __str__(self) -> str:
        """The tag for messages, such as ``<BrushLabels name="brush">``."""
        return f'<{self.tag} name="{as_written(self.name)}">'


def read_tags(xml: str) -> list[ConfigTag]:
    """The named tags of a labeling config, in the order in which they stand.

    Raises:
        InvalidLabelConfig: The text is not XML, has a document type declaration, or is too large.
    """
    require_small(xml)
    try:
        root = ElementTree.fromstring(xml.strip())
    except (ElementTree.ParseError, ValueError) as error:
        raise InvalidLabelConfig(f"the labeling config cannot be parsed: {error}") from error
    found: list[ConfigTag] = []
    # A list of what is left instead of calls: a config may be nested thousands deep.
    waiting: list[tuple[ElementTree.Element, ConfigTag | None, tuple[str, str, bool] | None]] = [(root, None, None)]
    while waiting:
        element, owner, repeater = waiting.pop()
        attributes = dict(_attributes(element, repeater))
        kind = str(element.tag).lower()
        if kind == "repeater":
            flag = attributes.get("indexflag") or FLAG
            repeater = (attributes.get("on", ""), flag, repeater is not None)
        elif kind == "label":
            text = (element.text or "").strip()
            if text and len(element) == 0:
                attributes["value"] = text if repeater is None else text.replace(repeater[1], INDEX)
            if owner is not None:
                owner.labels.append(attributes)
        elif attributes.get("name"):
            owner = ConfigTag(str(element.tag), attributes)
            if repeater is not None:
                owner.repeated, _, owner.nested = repeater
            found.append(owner)
            if len(found) > MAX_NAMED:
                raise InvalidLabelConfig(f"the labeling config has more than {MAX_NAMED} tags with a name")
        waiting.extend((child, owner, repeater) for child in reversed(element))
    return found


def _attributes(element: ElementTree.Element, repeater: tuple[str, str, bool] | None) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        yield name.lower(), value if repeater is None else value.replace(repeater[1], INDEX)
