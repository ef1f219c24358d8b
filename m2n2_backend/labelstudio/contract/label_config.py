"""The labeling config → the control that shows the mask, and the controls that prompt for it."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cachetools import LRUCache
from label_studio_sdk.label_interface import LabelInterface

from m2n2_backend.errors import InvalidLabelConfig, NotReady
from m2n2_backend.labelstudio.contract.xml_limits import MAX_CHARS, require_small

OUTPUT_ATTRIBUTE = "m2n2"
OUTPUT_VALUE = "output"
"""``<PolygonLabels … m2n2="output">`` is the control masks are returned to, whatever others there are."""

OutputKind = Literal["brush", "bitmask", "polygon", "rectangle"]

_KINDS: tuple[OutputKind, ...] = ("brush", "bitmask", "polygon", "rectangle")
_PROMPTS = ("keypointlabels", "keypoint", "rectanglelabels", "rectangle")
_SILENT = ("brush", "bitmask", "ellipse", "polygon")
_WAITING = 16
"""Threads that may wait while others' configs are parsed."""

_KEPT_ANYWAY = 1000
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


@dataclass(frozen=True, slots=True)
class OutputControl:
    """The control whose regions a mask is returned as.

    Attributes:
        name: Its ``name`` in the config.
        tag: Its tag as it is written there, for messages.
        kind: What a mask is turned into.
        labels_name: Name of the separate ``<Labels>`` control where the tag holds no labels, else None.
        labels: The labels it knows; empty where it has none or takes them from the task.
        labels_from_task: The labels are only known to the task (``value="$labels"``).
    """

    name: str
    tag: str
    kind: OutputKind
    labels_name: str | None
    labels: tuple[str, ...]
    labels_from_task: bool

    @property
    def type(self) -> str:
        """The ``type`` of its regions: ``brushlabels``, ``brush``, …."""
        return self.tag.lower()


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What the backend needs to know of a labeling config.

    Attributes:
        image_name: Name of the ``<Image>``, the regions' ``to_name``.
        image_key: Key of the task's data that holds the image's address.
        pages: True where that key holds a list of addresses (``valueList``).
        output: Where masks go.
        prompts: Names of the smart controls that are drawn on the image.
        warnings: What will confuse annotators although it works; one sentence each, with the cure.
    """

    image_name: str
    image_key: str
    pages: bool
    output: OutputControl
    prompts: frozenset[str]
    warnings: tuple[str, ...] = ()

    def output_label(self, label: str | None) -> str | None:
        """The output control's label for a prompt labeled ``label`` (None: the prompt has none).

        Raises:
            InvalidLabelConfig: The control knows several labels and ``label`` is none of them.
        """
        known = self.output.labels
        if label in known or self.output.labels_from_task:
            return label
        if len(known) <= 1:
            return known[0] if known else None
        where = f'<{self.output.tag} name="{self.output.name}">'
        if label is None:
            raise InvalidLabelConfig(f"the prompt has no label and {where} has several: select one before you click")
        raise InvalidLabelConfig(f'label "{label}" is not in {where}: add <Label value="{label}"/> there')


class LabelConfigs:
    """Labeling configs that were read before; every click brings its project's along. Threads share one."""

    def __init__(self, most_chars: int = 16 * MAX_CHARS) -> None:
        """Set up the memory.

        Args:
            most_chars: Of the texts behind what is kept.
        """
        self._known: LRUCache[bytes, tuple[int, LabelConfig | str]]
        self._known = LRUCache(most_chars, getsizeof=lambda known: known[0])
        self._lock = threading.Lock()
        self._parsing = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING)

    def read(self, xml: str) -> LabelConfig:
        """As :func:`parse_label_config`; a text is parsed once, also where it is refused, and one at a time.

        Raises:
            InvalidLabelConfig: See there.
            NotReady: Many others wait for theirs to be read.
        """
        key = hashlib.sha256(xml.encode("utf-8", "surrogatepass")).digest()
        found = self._recalled(key)
        if found is None:
            if not self._waiting.acquire(blocking=False):
                raise NotReady("busy reading other labeling configs: try again in a moment")
            try:
                with self._parsing:
                    found = self._recalled(key) or _parsed_or_refusal(xml)
                    with self._lock:
                        self._known[key] = (min(len(xml), MAX_CHARS) + _KEPT_ANYWAY, found)
            finally:
                self._waiting.release()
        if isinstance(found, str):
            raise InvalidLabelConfig(found)
        return found

    def _recalled(self, key: bytes) -> LabelConfig | str | None:
        with self._lock:
            known = self._known.get(key)
        return known[1] if known else None


def _parsed_or_refusal(xml: str) -> LabelConfig | str:
    try:
        return parse_label_config(xml)
    except InvalidLabelConfig as error:
        return str(error)


def parse_label_config(xml: str) -> LabelConfig:
    """Read a labeling config.

    Raises:
        InvalidLabelConfig: No XML, a document type declaration, too large, or a needed control is missing; the
            message names the line to add.
    """
    interface = _parse(xml)
    controls = list(interface.controls or ())
    images = {tag.name: tag for tag in interface.objects or () if tag.tag.lower() == "image"}
    if not images:
        raise InvalidLabelConfig('the labeling config has no image: add <Image name="image" value="$image"/>')
    output, image_name = _output(controls, tuple(images))
    key, pages = _image_source(images[image_name])
    on_image = [control for control in controls if image_name in control.to_name]
    prompts = [control for control in on_image if control.tag.lower() in _PROMPTS]
    # By tag, not `control in prompts`: the SDK's controls compare field by field, and there may be thousands.
    smart = [
        control
        for control in on_image
        if _is_prompt(control) and (control.tag.lower() in _PROMPTS or control is not output)
    ]
    if not smart:
        if prompts:
            tag = f'<{prompts[0].tag} name="{prompts[0].name}">'
            raise InvalidLabelConfig(f'no control prompts for masks: write smart="true" in {tag}')
        raise InvalidLabelConfig(
            f'no control prompts for masks: add <KeyPointLabels name="keypoint" toName="{image_name}" '
            'smart="true"> with the same labels'
        )
    described = _describe(output, on_image)
    return LabelConfig(
        image_name=image_name,
        image_key=key,
        pages=pages,
        output=described,
        prompts=frozenset(control.name for control in smart),
        warnings=tuple(_warnings(output, described, smart)),
    )


def _parse(xml: str) -> LabelInterface:
    require_small(xml)
    try:
        return LabelInterface(_DECLARATION.sub("", xml, count=1))
    except Exception as error:
        # The SDK raises whatever its parsing stumbles over: AttributeError, KeyError, its own types.
        cause = " ".join(str(error).split())
        raise InvalidLabelConfig(f"the labeling config cannot be parsed: {cause}") from error


def _output(controls: list[Any], images: tuple[str, ...]) -> tuple[Any, str]:
    """The control masks are returned to, and the name of the image it draws on."""
    drawing = [control for control in controls if any(name in images for name in control.to_name)]
    chosen = [control for control in drawing if str(control.attr.get(OUTPUT_ATTRIBUTE, "")).strip() == OUTPUT_VALUE]
    if chosen:
        if len(chosen) > 1 or not any(chosen[0].tag.lower() in (kind, f"{kind}labels") for kind in _KINDS):
            raise InvalidLabelConfig(
                f'{OUTPUT_ATTRIBUTE}="{OUTPUT_VALUE}" belongs to one brush, bitmask, polygon or rectangle control'
            )
        return chosen[0], next(name for name in chosen[0].to_name if name in images)
    able = [control for kind in _KINDS for control in drawing if control.tag.lower() in (kind, f"{kind}labels")]
    if able:
        # What is smart is a prompt; it shows the answer only where nothing else could, and a rectangle last of all.
        able.sort(key=lambda control: (control.tag.lower().startswith("rectangle"), _is_prompt(control)))
        return able[0], next(name for name in able[0].to_name if name in images)
    raise InvalidLabelConfig(
        f'no control can show a mask: add <BrushLabels name="brush" toName="{images[0]}" smart="false"> '
        "with your labels (or PolygonLabels, BitmaskLabels)"
    )


def _describe(output: Any, on_image: list[Any]) -> OutputControl:
    kind = next(kind for kind in _KINDS if output.tag.lower().startswith(kind))
    holder = output
    if output.tag.lower() == kind:
        holder = next((control for control in on_image if control.tag.lower() == "labels"), None)
    dynamic = holder is not None and bool(holder.dynamic_value)
    labels = tuple(holder.labels or ()) if holder is not None else ()
    if holder is not None and not labels and not dynamic:
        raise InvalidLabelConfig(f'<{holder.tag} name="{holder.name}"> has no label: add <Label value="Object"/>')
    labels_name = holder.name if holder is not None and holder is not output else None
    return OutputControl(output.name, output.tag, kind, labels_name, labels, dynamic)


def _image_source(image: Any) -> tuple[str, bool]:
    """Key of the task's data, and whether it holds a list."""
    match = re.fullmatch(r"\$([^\s,]+)", image.value or "")
    if match is None:
        raise InvalidLabelConfig(f'<Image name="{image.name}"> must take its value from the task: value="$image"')
    return match.group(1), image.attr.get("valueList") is not None


def _is_smart(control: Any) -> bool:
    # Label Studio's default for every control is true.
    return str(control.attr.get("smart", "true")).strip().lower() != "false"


def _is_prompt(control: Any) -> bool:
    """Whether what is drawn with it is a prompt; strokes, ellipses and polygons, often drawn by hand, must say so."""
    tag = control.tag.lower()
    said = "smart" in control.attr
    return _is_smart(control) and (tag in _PROMPTS or (said and tag.removesuffix("labels") in _SILENT))


def _warnings(output: Any, described: OutputControl, smart: list[Any]) -> Iterable[str]:
    where = f'<{output.tag} name="{output.name}">'
    if _is_smart(output) and output not in smart:
        yield f'write smart="false" in {where}: else the toolbar has a smart tool that never sends a request'
    for control in smart:
        if control.tag.lower().removesuffix("labels") in _SILENT:
            yield (
                f'Label Studio (1.23.2) sends nothing when <{control.tag} name="{control.name}"> is drawn with: '
                "predict-project reads what was saved; for an answer at once see smart_tools.user.js in label_config"
            )
    if len(described.labels) > 1 and not described.labels_from_task:
        missing = sorted({label for control in smart for label in control.labels or ()} - set(described.labels))
        if missing:
            yield f"prompts labeled {', '.join(missing)} cannot be answered: add these labels to {where}"
