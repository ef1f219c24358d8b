"""Label Studio's own templates of labeling configs: each is refused, or all its prompts come back right."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import rig
import yaml
from editor_model import check_every_prompt
from label_studio_fakes import CountingMedia, DiscPool, settings

from m2n2_backend.server.app import create_app

CLICKABLE = '<KeyPointLabels name="m2n2_points" toName="{image}"><Label value="M2N2 object"/></KeyPointLabels>'
MASKS = '<BrushLabels name="m2n2_masks" toName="{image}" smart="false"><Label value="M2N2 object"/></BrushLabels>'


def templates() -> dict[str, str]:
    """The labeling configs that come with Label Studio's package, by the names of their folders."""
    python = Path(os.environ["E2E_LABEL_STUDIO"]).with_name("python")
    command = [python, "-c", "import label_studio; print(label_studio.__path__[0])"]
    package = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    found = {}
    for path in sorted(package.glob("annotation_templates/**/config.*")):
        text = path.read_text(encoding="utf-8")
        xml = yaml.safe_load(text).get("config") if path.suffix == ".yml" else text
        if isinstance(xml, str) and "<View" in xml:
            found[f"{path.parent.name} {path.suffix}"] = xml
    return found


@pytest.mark.skipif(rig.missing() is not None, reason=str(rig.missing()))
def test_each_template_is_refused_with_a_reason_or_answers_every_prompt() -> None:
    media = CountingMedia()
    client = create_app(settings(), DiscPool(), media).test_client()
    asked = {}
    for name, xml in templates().items():
        names = re.findall(r'valueList="\$(\w+)"', xml)
        data = dict.fromkeys(re.findall(r'"\$(\w+)"', xml), "/image.png") | {each: ["/1.png"] for each in names}
        asked[name] = check_every_prompt(client, media, xml, data)
        for image in re.findall(r'<Image[^>]*\bname="([^"]+)"', xml)[:1]:
            more = (CLICKABLE + MASKS).format(image=image)
            helped = xml[: xml.rindex("</View>")] + more + xml[xml.rindex("</View>") :]
            asked[f"{name}, with m2n2's controls"] = check_every_prompt(client, media, helped, data)
    assert len(asked) > 50
    assert sum(bool(count) for count in asked.values()) > 10
