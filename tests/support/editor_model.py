"""A model of what Label Studio's editor (1.23.2) can send for a labeling config, written from its source.

It is the other side of the contract: tags are made for each item of a ``<Repeater>``, a control belongs to the image
whose name its ``toName`` is, and a smart tool exists for key points and rectangles alone.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from fake_label_studio import HEIGHT, WIDTH
from flask.testing import FlaskClient
from label_studio_fakes import CountingMedia, payload

TOOLS = ("keypoint", "keypointlabels", "rectangle", "rectanglelabels")
OUTPUTS = ("brush", "bitmask", "polygon", "rectangle")
GEOMETRY = {"keypoint": {"x": 50.0, "y": 50.0, "width": 0.2}}
GEOMETRY["rectangle"] = {"x": 25.0, "y": 25.0, "width": 50.0, "height": 50.0, "rotation": 0}


@dataclass(frozen=True)
class EditorTag:
    """A named tag as the page holds it: attributes in lower case, labels as regions hold them."""

    kind: str
    attributes: dict[str, str]
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.attributes["name"]

    @property
    def to_name(self) -> str:
        return self.attributes.get("toname", "")

    @property
    def is_smart(self) -> bool:
        return self.attributes.get("smart", "true") != "false"


@dataclass(frozen=True)
class Sent:
    """One request of the editor: its items, and the image and labels that the annotator sees."""

    items: list[dict[str, Any]]
    image: str
    address: str
    labels: tuple[str, ...]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The labels selected in each separate ``<Labels>``."""
        return {one["from_name"]: one["value"]["labels"] for one in self.items if one["type"] == "labels"}


def page_of(xml: str, data: dict[str, Any]) -> list[EditorTag]:
    """The tags of a task's page."""
    found: list[EditorTag] = []

    def visit(node: ElementTree.Element) -> None:
        if node.tag == "Repeater":
            for index in range(len(value_of(node.get("on", ""), data) or [])):
                for child in node:
                    clone = copy.deepcopy(child)
                    for each in clone.iter():
                        for name, text in each.attrib.items():
                            each.set(name, text.replace(node.get("indexFlag", "{{idx}}"), str(index)))
                    visit(clone)
            return
        attributes = {name.lower(): text for name, text in node.attrib.items()}
        if "name" in attributes:
            own = [each.get("alias") or each.get("value", "") for each in node.iter("Label")]
            of_task = value_of(attributes.get("value", ""), data) if node.tag.endswith("abels") else None
            more = [each.get("alias") or each["value"] for each in of_task or () if isinstance(each, dict)]
            found.append(EditorTag(node.tag.lower(), attributes, tuple(own + more)))
        for child in node:
            visit(child)

    visit(ElementTree.fromstring(xml.strip()))
    return found


def value_of(text: str, data: dict[str, Any]) -> Any:
    """What a value such as ``$photo.urls[0]`` names; None if it does not name anything."""
    if not re.fullmatch(r"\$[A-Za-z0-9_.\[\]]+", text):
        return None
    value: Any = data
    for part in re.findall(r"[A-Za-z0-9_]+", text):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError):
            return None
    return value


def everything_sent(page: list[EditorTag], data: dict[str, Any]) -> Iterator[Sent]:
    """Every request that a first click or box on this page can make."""
    for image in (tag for tag in page if tag.kind == "image"):
        several = "valuelist" in image.attributes
        value = value_of(image.attributes["valuelist" if several else "value"], data)
        addresses = value if isinstance(value, list) else [value]
        for number, address in enumerate(addresses if several else addresses[:1]):
            if not isinstance(address, str):
                continue
            common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "id": "drawn1"}
            common |= {"to_name": image.name} | ({"item_index": number} if several else {})
            on_image = [tag for tag in page if tag.to_name == image.name]
            for tool in on_image:
                if tool.kind in TOOLS and tool.is_smart:
                    for items, labels in _items(tool, [tag for tag in on_image if tag.kind == "labels"], common):
                        yield Sent(items, image.name, address, labels)


def _items(
    tool: EditorTag, groups: list[EditorTag], common: dict[str, Any]
) -> Iterator[tuple[list[dict[str, Any]], tuple[str, ...]]]:
    shape = tool.kind.removesuffix("labels")
    for chosen in _selections(tool, groups):
        first = next(iter(chosen.values()), [])
        items = []
        for name, labels in {tool.name: [], **chosen}.items():
            kind = tool.kind if name == tool.name else "labels"
            value = {**GEOMETRY[shape], **({"labels": list(first)} if shape == "keypoint" else {})}
            value |= {kind: list(labels)} if kind.endswith("labels") else {}
            items.append({**common, "type": kind, "from_name": name, "value": value})
        yield items, tuple(label for labels in chosen.values() for label in labels)


def _selections(tool: EditorTag, groups: list[EditorTag]) -> Iterator[dict[str, list[str]]]:
    """Labels that an annotator may select, by control; one of them has to be selected if there are any."""
    holders = [tool] if tool.kind.endswith("labels") else groups
    if not holders:
        yield {}
    for holder in holders:
        for label in holder.labels:
            yield {holder.name: [label]}
        if holder.attributes.get("choice") == "multiple" and len(holder.labels) > 1:
            yield {holder.name: list(holder.labels)}
    for one, other in itertools.combinations(holders, 2):
        if one.labels and other.labels:
            yield {one.name: [one.labels[0]], other.name: [other.labels[-1]]}


def check_every_prompt(client: FlaskClient, media: CountingMedia, xml: str, data: dict[str, Any]) -> int | None:
    """Check that all prompts of a config come back right; returns their number, or None if /setup refuses it."""
    setup = client.post("/setup", json={"project": "1", "schema": xml})
    assert setup.status_code in (200, 422), setup.status
    if setup.status_code == 422:
        assert setup.json["detail"]
        return None
    page = page_of(xml, data)
    tags = {tag.name: tag for tag in page}
    renamed = any("come back as" in warning for warning in setup.json.get("warnings", ()))
    requests = list(everything_sent(page, data))
    for sent in requests:
        answer = client.post("/predict", json=payload(*sent.items, config=xml, data=data))
        assert answer.status_code == 200, (answer.status, sent)
        assert media.refs[-1].url == sent.address, sent
        regions = answer.json["results"][0]["result"]
        assert regions
        found = []
        for region in regions:
            control = tags[region["from_name"]]
            assert sent.image == region["to_name"] in control.to_name.split(","), sent
            assert control.kind == region["type"]
            if control.kind == "labels":
                assert region["value"]["labels"] == sent.groups.get(control.name, region["value"]["labels"])
                assert control.name in sent.groups or not sent.groups, (region["from_name"], sent)
            else:
                _check_output(control, [tag for tag in page if tag.to_name == sent.image])
            labels = region["value"].get(region["type"], [])
            assert set(labels) <= set(control.labels), (region["from_name"], labels)
            found += labels
        if sent.labels:
            assert renamed or sorted(set(found)) == sorted(set(sent.labels)), (found, sent)
        else:  # a prompt without a label can mean the only label there is
            assert len(set(found)) <= 1, (found, sent)
    return len(requests)


def _check_output(control: EditorTag, on_image: list[EditorTag]) -> None:
    """Masks go to a control that is made for them, or to one for prompts if there is no other."""
    assert control.kind.removesuffix("labels") in OUTPUTS
    free = [tag for tag in on_image if tag.kind.removesuffix("labels") in OUTPUTS and not _prompts(tag)]
    assert not free or not _prompts(control) or control.attributes.get("m2n2") == "output"


def _prompts(tag: EditorTag) -> bool:
    return tag.is_smart and (tag.kind in TOOLS or "smart" in tag.attributes)
