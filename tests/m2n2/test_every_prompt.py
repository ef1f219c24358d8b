"""A labeling config is refused by /setup, or every prompt that the editor can send for it comes back right."""

from __future__ import annotations

import itertools
from typing import Any

from editor_model import check_every_prompt
from flask.testing import FlaskClient
from hypothesis import event, given, settings
from hypothesis import strategies as st
from label_studio_fakes import CountingMedia, DiscPool
from label_studio_fakes import settings as backend_settings

from m2n2_backend.server.app import create_app

DATA = {
    "image": "/image.png",
    "photo": {"url": "/photo.png", "urls": ["/first.png", "/second.png"]},
    "pages": ["/page0.png", "/page1.png"],
    "list": [{"url": "/item0.png"}, {"url": "/item1.png"}],
    "plants": [{"value": "Tree"}, {"value": "Fern", "alias": "f"}],
    "animals": [{"value": "Cat"}],
}
LABELS = ["Tree", "House", "Cat", 'Say "a<b"']
SOURCES = ['value="$image"', 'value="$photo.url"', 'value="$photo.urls[1]"', 'valueList="$pages"', 'value="$missing"']
ODD = [' m2n2="output"', ' value="$plants"', ' value="$animals"', ' allowEmpty="true"', ' choice="multiple"']


def written(label: str) -> str:
    return label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def seldom(draw: st.DrawFn, choices: list[str], usual: str, one_in: int = 12) -> str:
    return draw(st.sampled_from(choices)) if draw(st.integers(1, one_in)) == one_in else usual


@st.composite
def controls(draw: st.DrawFn, image: str, numbers: Any, flag: str) -> str:
    shape = draw(st.sampled_from(["KeyPoint", "KeyPoint", "Rectangle", "Brush", "Polygon", "Bitmask", "Labels"]))
    own = shape == "Labels" or draw(st.integers(0, 3)) > 0
    tag = shape if shape == "Labels" or not own else f"{shape}Labels"
    is_pointer = shape in ("KeyPoint", "Rectangle")
    smart = seldom(
        draw, ["", ' smart="true"', ' smart="false"'], ' smart="true"' if is_pointer else ' smart="false"', 4
    )
    more = smart + seldom(draw, ODD, "", 6)
    to_name = seldom(draw, ["elsewhere", f"{image},image0"], image, 20)
    name = seldom(draw, [f"c{next(numbers)}{flag}"], f"c{next(numbers)}_{flag}", 20)
    # A prompt knows few labels and an output many, as else most configs would be refused.
    names = draw(st.lists(st.sampled_from(LABELS), min_size=0, max_size=2, unique=True))
    names = (
        names[:1] if is_pointer else [*names, *(label for label in LABELS if label not in names)][: len(names) + 2]
    )
    alias = seldom(draw, [' alias="x"'], "", 20)
    inner = "".join(f'<Label value="{written(one)}"{alias}/>' for one in names) if own else ""
    return f'<{tag} name="{name}" toName="{to_name}"{more}>{inner}</{tag}>'


@st.composite
def configs(draw: st.DrawFn) -> str:
    numbers, parts = itertools.count(), []
    for number in range(draw(st.integers(1, 2))):
        image = f"image{number}"
        parts.append(f'<Image name="{image}" {draw(st.sampled_from(SOURCES))}/>')
        parts += draw(st.lists(controls(image, numbers, ""), min_size=1, max_size=4))
        parts += [usual(image)] if draw(st.integers(0, 3)) else []
    if draw(st.integers(0, 2)) == 0:
        flag = draw(st.sampled_from(["{{idx}}", "#"]))
        source = draw(st.sampled_from([f'value="$list[{flag}].url"', f'value="$list[{flag}].url"', 'value="$image"']))
        inner = [f'<Image name="im_{flag}" {source}/>']
        inner += draw(st.lists(controls(f"im_{flag}", numbers, flag), min_size=1, max_size=4))
        inner += [usual(f"im_{flag}")] if draw(st.integers(0, 3)) else []
        on = seldom(draw, ["$missing", "list"], "$list")
        parts.append(f'<Repeater on="{on}" indexFlag="{flag}">{"".join(inner)}</Repeater>')
    parts = draw(st.permutations(parts))
    return f"<View>{''.join(parts)}</View>"


def usual(image: str) -> str:
    """A config most of which is fine, so that the property is not only about refusals."""
    every = "".join(f'<Label value="{written(label)}"/>' for label in LABELS)
    return (
        f'<BrushLabels name="b_{image}" toName="{image}" smart="false">{every}</BrushLabels>'
        f'<KeyPointLabels name="k_{image}" toName="{image}" choice="multiple">{every}</KeyPointLabels>'
    )


def app() -> tuple[FlaskClient, CountingMedia]:
    media = CountingMedia()
    return create_app(backend_settings(), DiscPool(), media).test_client(), media


@given(configs())
@settings(max_examples=120)
def test_a_config_that_setup_takes_answers_every_prompt_of_the_editor(config: str) -> None:
    client, media = app()
    count = check_every_prompt(client, media, config, DATA)
    event("refused" if count is None else f"{min(count, 3)} prompts or more")


def test_the_property_holds_for_a_config_with_everything() -> None:
    client, media = app()
    repeated = usual("im_{{idx}}")
    xml = (
        f'<View><Image name="a" value="$photo.urls[1]"/>{usual("a")}<Image name="b" valueList="$pages"/>{usual("b")}'
        f'<Repeater on="$list"><View><Image name="im_{{{{idx}}}}" value="$list[{{{{idx}}}}].url"/>{repeated}</View>'
        "</Repeater></View>"
    )
    assert check_every_prompt(client, media, xml, DATA) == (len(LABELS) + 1) * (1 + 2 + 2)
