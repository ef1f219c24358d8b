"""What a labeling config may cost: hostile ones are refused before a tree is made of them, others are parsed once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree import ElementTree

import pytest
from label_studio_fakes import CONFIG, CountingMedia, DiscPool, key_point, labels, payload, settings

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config import LabelConfigs, parse_label_config, tags
from m2n2_backend.labelstudio.contract.label_config.tags import MAX_NAMED
from m2n2_backend.labelstudio.contract.label_config.xml_limits import MAX_ATTRIBUTES, MAX_TAGS, require_small
from m2n2_backend.server.app import create_app

MANY = " ".join(f'a{number}=""' for number in range(40_000))
TOO_MANY = " ".join(f'a{number}=""' for number in range(MAX_ATTRIBUTES - 1))
HOSTILE = {
    "an unclosed declaration": "<?xml" + " " * 400_000 + CONFIG,
    "two declarations": '<?xml version="1.0"?><?xml' + " " * 400_000 + CONFIG,
    "forty thousand attributes": CONFIG.replace("<Image ", f"<Image {MANY} "),
    "one attribute too many": CONFIG.replace(
        "<Image ", "<Image " + " ".join(f'a{n}=""' for n in range(MAX_ATTRIBUTES)) + " "
    ),
    "a tag too many": CONFIG.replace("<View>", "<View>" + "<a/>" * MAX_TAGS),
    "an unclosed comment": "<View><!--" + "x" * 400_000,
    "entities": f'<!DOCTYPE View [<!ENTITY a "b">]>{CONFIG}',
}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts that a parser of XML was handed."""
    texts: list[str] = []
    real = ElementTree.fromstring

    def counted(text: str) -> Any:
        texts.append(text)
        return real(text)

    monkeypatch.setattr(tags.ElementTree, "fromstring", counted)
    return texts


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/setup", "/predict"])
def test_a_hostile_config_is_refused_before_a_tree_is_made_of_it(name: str, path: str, parsed: list[str]) -> None:
    client = create_app(settings(), DiscPool(), CountingMedia()).test_client()
    body = {"schema": HOSTILE[name]} if path == "/setup" else payload(key_point(), config=HOSTILE[name])
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert parsed == []


def test_twelve_hundred_labels_in_three_controls_are_welcome() -> None:
    many = labels(*(f"a label with quite a long name {number}" for number in range(1200)))
    config = CONFIG.replace(labels("Cat", "Dog", "Cow"), many).replace(labels("Cat", "Dog"), many)
    require_small(config)
    assert len(LabelConfigs().read(config).images[0].outputs[0].labels) == 1200


def test_thousands_of_controls_are_refused_before_they_are_compared() -> None:
    more = "".join(f'<KeyPoint name="k{number}" toName="image"/>' for number in range(MAX_NAMED))
    with pytest.raises(InvalidLabelConfig, match="more than 500 tags with a name"):
        LabelConfigs().read(CONFIG.replace("</View>", f"{more}</View>"))


def test_a_config_is_parsed_once_however_many_click(parsed: list[str]) -> None:
    client = create_app(settings(), DiscPool(), CountingMedia()).test_client()
    client.post("/setup", json={"schema": CONFIG})
    for _ in range(3):
        assert client.post("/predict", json=payload(key_point())).status_code == 200
    assert len(parsed) == 1


def test_clicks_that_come_at_once_wait_for_one_parse(parsed: list[str]) -> None:
    configs, start = LabelConfigs(), threading.Barrier(8)

    def read(_: int) -> str:
        start.wait()
        return configs.read(CONFIG).images[0].outputs[0].name

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(read, range(8))) == {"brush"}
    assert len(parsed) == 1


def test_a_refusal_is_remembered_too(parsed: list[str]) -> None:
    configs = LabelConfigs()
    for _ in range(2):
        with pytest.raises(InvalidLabelConfig, match="has no image"):
            configs.read("<View/>")
    assert len(parsed) == 1


def test_what_is_kept_is_bounded() -> None:
    configs = LabelConfigs(most_chars=10 * (len(CONFIG) + 1010))
    for number in range(30):
        configs.read(f"{CONFIG}<!--{number}-->")
    assert len(configs._known) <= 10


def test_a_config_whose_prompts_share_no_label_with_its_outputs_is_refused_at_once() -> None:
    outputs, prompts = (
        "".join(
            f'<{tag} name="{tag}{number}" toName="image" smart="{smart}">'
            f"{labels(*(f'{tag}{number}_{label}' for label in range(11)))}</{tag}>"
            for number in range(249)
        )
        for tag, smart in (("BrushLabels", "false"), ("KeyPointLabels", "true"))
    )
    config = parse_label_config(f'<View><Image name="image" value="$image"/>{outputs}{prompts}</View>')
    assert len(config.problems) == 20, "each label was looked for in each control: a minute"
