"""Every prompt is answered on its own image, by the control that knows its label, with all of its labels."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from label_studio_fakes import CountingMedia, DiscPool, key_point, labels, payload, settings

from m2n2_backend.server.app import create_app

IMAGE = '<Image name="image" value="$image"/>'
TREES = f'<BrushLabels name="trees" toName="image" smart="false">{labels("Tree")}</BrushLabels>'
HOUSES = f'<BrushLabels name="houses" toName="image" smart="false">{labels("House")}</BrushLabels>'
BOTH = f'<KeyPointLabels name="kp" toName="image" choice="multiple">{labels("Tree", "House")}</KeyPointLabels>'
DRAWN = {"x": 50.0, "y": 50.0, "width": 0.2}


@pytest.fixture
def media() -> CountingMedia:
    return CountingMedia()


@pytest.fixture
def client(media: CountingMedia) -> FlaskClient:
    return create_app(settings(), DiscPool(), media).test_client()


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def polygons(xml: str) -> str:
    return xml.replace("BrushLabels", "PolygonLabels")


def click(*named: str, **fields: Any) -> dict[str, Any]:
    value = {**DRAWN, "labels": list(named), "keypointlabels": list(named)}
    return key_point(value=value, **fields)


def answer(client: FlaskClient, config: str, *items: Any, **task: Any) -> list[tuple[str, str, str, Any]]:
    """Control, image, type and labels of each region."""
    response = client.post("/predict", json=payload(*items, config=config, **task))
    assert response.status_code == 200, response.status
    return [
        (each["from_name"], each["to_name"], each["type"], each["value"].get(each["type"]))
        for each in response.json["results"][0]["result"]
    ]


def refusal(client: FlaskClient, config: str, *items: Any, **task: Any) -> str:
    response = client.post("/predict", json=payload(*items, config=config, **task))
    assert response.status_code in (400, 422), response.status
    return str(response.json["detail"])


def setup(client: FlaskClient, config: str) -> str:
    """Why /setup refuses a config; empty where it takes it."""
    response = client.post("/setup", json={"project": "1", "schema": config})
    assert response.status_code in (200, 422), response.status
    return "" if response.status_code == 200 else str(response.json["detail"])


@pytest.mark.parametrize("houses", [HOUSES, polygons(HOUSES)])
def test_with_one_control_a_class_each_click_comes_back_as_its_own_class(client: FlaskClient, houses: str) -> None:
    config = view(IMAGE, TREES, houses, BOTH)
    kind = "polygonlabels" if "Polygon" in houses else "brushlabels"
    assert setup(client, config) == ""
    assert answer(client, config, click("House")) == [("houses", "image", kind, ["House"])]
    assert answer(client, config, click("Tree")) == [("trees", "image", "brushlabels", ["Tree"])]


def test_with_two_groups_of_several_labels_each_label_finds_its_group(client: FlaskClient) -> None:
    first = TREES.replace(labels("Tree"), labels("Tree", "Bush"))
    second = HOUSES.replace(labels("House"), labels("House", "Hut"))
    config = view(IMAGE, first, second, BOTH.replace(labels("Tree", "House"), labels("Bush", "Hut")))
    assert answer(client, config, click("Bush")) == [("trees", "image", "brushlabels", ["Bush"])]
    assert answer(client, config, click("Hut")) == [("houses", "image", "brushlabels", ["Hut"])]


def test_with_two_groups_of_labels_and_one_brush_the_label_stays_in_its_group(client: FlaskClient) -> None:
    groups = [
        f'<Labels name="{name}" toName="image">{labels(*names)}</Labels>'
        for name, names in (("trees", ("Tree", "Bush")), ("houses", ("House", "Hut")))
    ]
    tools = '<Brush name="brush" toName="image" smart="false"/><KeyPoint name="kp" toName="image"/>'
    config = view(IMAGE, *groups, tools)
    drawn = click("Hut", type="keypoint")
    assert setup(client, config) == ""
    found = answer(client, config, drawn, {**drawn, "type": "labels", "from_name": "houses"})
    assert found == [("houses", "image", "labels", ["Hut"])]


def test_a_region_with_labels_of_two_groups_keeps_both(client: FlaskClient) -> None:
    groups = [f'<Labels name="{name}" toName="image">{labels(name.title())}</Labels>' for name in ("cat", "asleep")]
    tools = '<Brush name="brush" toName="image" smart="false"/><KeyPoint name="kp" toName="image"/>'
    # The editor repeats the first group's label in the point and sends one more item for each group.
    point = click("Cat", type="keypoint")
    items = [point, {**point, "type": "labels", "from_name": "cat"}]
    items.append({**point, "type": "labels", "from_name": "asleep", "value": {**DRAWN, "labels": ["Asleep"]}})
    found = answer(client, view(IMAGE, *groups, tools), *items)
    assert found == [("cat", "image", "labels", ["Cat"]), ("asleep", "image", "labels", ["Asleep"])]


def test_a_label_that_two_groups_share_stays_in_the_one_it_was_selected_in(client: FlaskClient) -> None:
    groups = [f'<Labels name="{name}" toName="image">{labels("Oak", "Elm")}</Labels>' for name in ("left", "right")]
    tools = '<Brush name="brush" toName="image" smart="false"/><KeyPoint name="kp" toName="image"/>'
    point = click("Oak", type="keypoint")
    found = answer(client, view(IMAGE, *groups, tools), point, {**point, "type": "labels", "from_name": "right"})
    assert found == [("right", "image", "labels", ["Oak"])]


def test_the_marked_output_decides_where_several_know_a_label_and_no_further(client: FlaskClient) -> None:
    marked = polygons(HOUSES).replace("<PolygonLabels", '<PolygonLabels m2n2="output"')
    brush = TREES.replace(labels("Tree"), labels("Tree", "House"))
    config = view(IMAGE, brush, marked, BOTH)
    assert answer(client, config, click("House"))[0][0] == "houses"
    assert answer(client, config, click("Tree"))[0][0] == "trees"


def test_a_prompt_with_separate_labels_goes_to_an_output_with_separate_labels(client: FlaskClient) -> None:
    group = f'<Labels name="labels" toName="image">{labels("Tree")}</Labels>'
    tools = '<Polygon name="polygon" toName="image" smart="false"/><KeyPoint name="point" toName="image"/>'
    config = view(IMAGE, TREES, group, tools, BOTH.replace(labels("Tree", "House"), labels("Tree")))
    point = click("Tree", type="keypoint", from_name="point")
    found = answer(client, config, point, {**point, "type": "labels", "from_name": "labels"})
    assert found == [("polygon", "image", "polygon", None), ("labels", "image", "labels", ["Tree"])]
    assert answer(client, config, click("Tree")) == [("trees", "image", "brushlabels", ["Tree"])]


def test_a_label_that_no_control_knows_is_refused_with_the_control_to_change(client: FlaskClient) -> None:
    config = view(IMAGE, TREES, HOUSES, BOTH.replace('value="Tree"', 'value="Lake"'))
    wanted = 'label "Lake" is in none of <BrushLabels name="trees">, <BrushLabels name="houses">: add '
    assert refusal(client, config, click("Lake")).startswith(wanted + '<Label value="Lake"/>')
    assert setup(client, config).startswith(wanted)


def test_a_label_of_a_separate_group_alone_does_not_become_the_only_one_of_the_output(client: FlaskClient) -> None:
    group = f'<Labels name="group" toName="image">{labels("Tree", "House")}</Labels>'
    config = view(IMAGE, group, TREES, '<KeyPoint name="kp" toName="image"/>')
    point = click("House", type="keypoint")
    told = refusal(client, config, point, {**point, "type": "labels", "from_name": "group"})
    assert told == 'label "House" is not in <BrushLabels name="trees">: add <Label value="House"/> there'
    assert setup(client, config) == told


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels", "BitmaskLabels", "RectangleLabels"])
def test_all_labels_of_a_prompt_come_back(client: FlaskClient, tag: str) -> None:
    output = f'<{tag} name="out" toName="image" smart="false" choice="multiple">{labels("Tree", "House")}</{tag}>'
    found = answer(client, view(IMAGE, output, BOTH), click("Tree", "House"))
    assert found == [("out", "image", tag.lower(), ["Tree", "House"])]


def test_all_labels_of_a_separate_group_come_back(client: FlaskClient) -> None:
    group = f'<Labels name="group" toName="image" choice="multiple">{labels("Tree", "House")}</Labels>'
    tools = '<Brush name="brush" toName="image" smart="false"/><KeyPoint name="kp" toName="image"/>'
    point = click("Tree", "House", type="keypoint")
    found = answer(client, view(IMAGE, group, tools), point, {**point, "type": "labels", "from_name": "group"})
    assert found == [("group", "image", "labels", ["Tree", "House"])]


def test_labels_that_no_single_control_knows_become_a_region_in_each(client: FlaskClient) -> None:
    found = answer(client, view(IMAGE, TREES, HOUSES, BOTH), click("Tree", "House"))
    assert [(name, named) for name, _, _, named in found] == [("trees", ["Tree"]), ("houses", ["House"])]


def test_the_mask_comes_from_the_image_that_the_prompt_was_drawn_on(
    client: FlaskClient, media: CountingMedia
) -> None:
    images = '<Image name="rgb" value="$rgb"/><Image name="ref" value="$ref"/>'
    shared = (TREES + BOTH).replace('toName="image"', 'toName="rgb,ref"').replace("House", "Tree")
    data = {"rgb": "/rgb.png", "ref": "/ref.png"}
    for name in ("ref", "rgb"):
        found = answer(client, view(images, shared), click("Tree", to_name=name), data=data)
        assert (found[0][1], media.refs[-1].url) == (name, f"/{name}.png")
    told = refusal(client, view(images, shared), click("Tree", to_name="other"), data=data)
    assert 'to_name "other" is not an image of "kp", which has rgb, ref' in told
    assert '<KeyPointLabels name="kp"> on 2 images: each needs its own' in setup(client, view(images, shared))


def test_two_images_with_controls_of_their_own_are_both_clicked(client: FlaskClient, media: CountingMedia) -> None:
    images = '<Image name="image" value="$left"/><Image name="right" value="$photo.url"/>'
    second = (TREES + BOTH).replace('"image"', '"right"').replace('name="trees"', 'name="trees2"')
    second = second.replace('name="kp"', 'name="kp2"').replace("House", "Tree")
    config = view(images, TREES, BOTH.replace("House", "Tree"), second)
    data = {"left": "/left.png", "photo": {"url": "/right.png"}}
    assert setup(client, config) == ""
    for name, control, output, url in (
        ("image", "kp", "trees", "/left.png"),
        ("right", "kp2", "trees2", "/right.png"),
    ):
        found = answer(client, config, click("Tree", from_name=control, to_name=name), data=data)
        assert (found[0][:2], media.refs[-1].url) == ((output, name), url)


REPEATER = view(
    '<Repeater on="$images" indexFlag="{{idx}}"><Image name="im_{{idx}}" value="$images[{{idx}}].url"/>',
    (TREES + BOTH)
    .replace('"image"', '"im_{{idx}}"')
    .replace('"trees"', '"trees_{{idx}}"')
    .replace("House", "Tree")
    .replace('"kp"', '"kp_{{idx}}"'),
    "</Repeater>",
)


@pytest.mark.parametrize("flag", ["{{idx}}", "##"])
def test_each_image_of_a_repeater_is_told_by_its_number(client: FlaskClient, media: CountingMedia, flag: str) -> None:
    data = {"images": [{"url": f"/{number}.png"} for number in range(12)]}
    config = REPEATER.replace("{{idx}}", flag)
    assert setup(client, config) == ""
    for number in (0, 1, 11):
        prompt = click("Tree", from_name=f"kp_{number}", to_name=f"im_{number}")
        found = answer(client, config, prompt, data=data)
        assert found == [(f"trees_{number}", f"im_{number}", "brushlabels", ["Tree"])]
        assert media.refs[-1].url == f"/{number}.png"
    for number in ("12", "01", "1000000000000", "x"):
        prompt = click("Tree", from_name=f"kp_{number}", to_name=f"im_{number}")
        assert refusal(client, config, prompt, data=data)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ('value="$photo.url"', {"photo": {"url": "/a.png"}}),
        ('value="$photo.url"', {"photo.url": "/a.png", "photo": {"url": "/b.png"}}),
        ('value="$images[0]"', {"images": ["/a.png", "/b.png"]}),
        ('value="$images[1].urls[0]"', {"images": [0, {"urls": ["/a.png"]}]}),
        ('value="$images"', {"images": ["/a.png", "/b.png"]}),
        ('value="/$folder/$number"', {"folder": "x", "number": 3, "a": 1}),
        ('valueList="$doc.pages"', {"doc": {"pages": ["/a.png", "/b.png"]}}),
        ('valueList="$page"', {"page": "/a.png"}),
    ],
)
def test_an_image_is_found_where_the_editor_finds_it(
    client: FlaskClient, media: CountingMedia, value: str, data: dict[str, Any]
) -> None:
    config = view(f'<Image name="image" {value}/>', TREES, HOUSES, BOTH)
    assert setup(client, config) == ""
    answer(client, config, click("Tree"), data=data)
    assert media.refs[-1].url == ("/x/3" if "folder" in value else "/a.png")


def test_a_page_of_a_nested_list_is_told_and_echoed(client: FlaskClient, media: CountingMedia) -> None:
    config = view('<Image name="image" valueList="$doc.pages"/>', TREES, HOUSES, BOTH)
    data = {"doc": {"pages": ["/a.png", "/b.png"]}}
    body = payload(click("Tree", item_index=1), config=config, data=data)
    (region,) = client.post("/predict", json=body).json["results"][0]["result"]
    assert (region["item_index"], media.refs[-1].url) == (1, "/b.png")


def test_a_task_without_the_image_is_told_where_it_was_looked_for(client: FlaskClient) -> None:
    config = view('<Image name="image" value="$photo.url"/>', TREES, HOUSES, BOTH)
    told = refusal(client, config, click("Tree"), data={"photo": {}})
    assert told.startswith('tasks[0].data.photo.url must be the address of an image, as <Image name="image"> shows')


@pytest.mark.parametrize(
    ("prompt", "output"),
    [('<Label value="Cat" alias="c"/>', labels("Cat")), (labels("Cat"), '<Label value="Cat" alias="c"/>')],
)
def test_an_alias_in_one_of_two_controls_is_refused_with_the_alias_to_write(
    client: FlaskClient, prompt: str, output: str
) -> None:
    config = view(
        IMAGE, TREES.replace(labels("Tree"), output + labels("Dog")), BOTH.replace(labels("Tree", "House"), prompt)
    )
    assert 'alias="c"' in setup(client, config)
    assert 'alias="c"' in refusal(client, config, click("c" if "alias" in prompt else "Cat"))


def test_an_alias_in_both_controls_is_what_comes_back(client: FlaskClient) -> None:
    both = '<Label value="Cat" alias="c"/>'
    config = view(IMAGE, TREES.replace(labels("Tree"), both), BOTH.replace(labels("Tree", "House"), both))
    assert setup(client, config) == ""
    assert answer(client, config, click("c")) == [("trees", "image", "brushlabels", ["c"])]


def test_a_prompt_without_a_label_stays_without_one_where_the_control_allows_that(client: FlaskClient) -> None:
    config = view(
        IMAGE, *(each.replace(">", ' allowEmpty="true">', 1) for each in (TREES, BOTH.replace("House", "Tree")))
    )
    assert setup(client, config) == ""
    assert answer(client, config, click()) == [("trees", "image", "brushlabels", [])]


def test_labels_of_the_task_find_the_control_that_takes_them_from_there(client: FlaskClient) -> None:
    config = view(
        IMAGE,
        '<BrushLabels name="a" toName="image" smart="false" value="$plants"/>',
        '<BrushLabels name="b" toName="image" smart="false" value="$animals"/>',
        '<KeyPointLabels name="kp" toName="image" value="$animals"/>',
    )
    data = {"image": "/a.png", "plants": [{"value": "Tree"}], "animals": [{"value": "Dog", "alias": "d"}]}
    assert setup(client, config) == ""
    assert answer(client, config, click("d"), data=data) == [("b", "image", "brushlabels", ["d"])]
    assert answer(client, config, click("Tree"), data=data) == [("a", "image", "brushlabels", ["Tree"])]
    assert 'add <Label value="Cow"/>' in refusal(client, config, click("Cow"), data=data)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (view('<Image name="image" value="a.png"/>', TREES, HOUSES, BOTH), 'value="$image"'),
        (REPEATER.replace('name="kp_{{idx}}"', 'name="kp"'), "must hold {{idx}} once"),
        (REPEATER.replace("kp_{{idx}}", "kp{{idx}}7"), "digit beside {{idx}}"),
        (REPEATER.replace('on="$images"', 'on="images"'), 'on="$images"'),
        (
            REPEATER.replace("<Repeater", '<Repeater on="$x"><Repeater').replace("</Rep", "</Repeater></Rep"),
            "use one",
        ),
        (
            view(
                IMAGE,
                TREES,
                BOTH.replace("House", "Tree"),
                '<Image name="b" value="$b"/>',
                BOTH.replace('"image"', '"b"').replace('"kp"', '"kp2"'),
            ),
            'toName="b" smart="false">',
        ),
        (view(IMAGE, TREES, HOUSES, '<KeyPoint name="kp" toName="image"/>'), "add <Labels"),
        (
            view(IMAGE, TREES, HOUSES, BOTH.replace('"image"', '"imge"'), BOTH.replace('"kp"', '"kp2"')),
            'toName="imge"',
        ),
        (view(IMAGE, TREES, BOTH.replace(">", ' value="$labels">', 1)), 'write value="$labels" in <BrushLabels'),
        (view(IMAGE, TREES.replace(">", ' value="$labels">', 1), BOTH), 'write value="$labels" in it too'),
    ],
)
def test_a_config_that_cannot_answer_every_prompt_is_refused_with_the_line_to_change(
    client: FlaskClient, config: str, line: str
) -> None:
    assert line in setup(client, config)


ANIMALS = '<BrushLabels name="a" toName="image" smart="false" value="$animals"/>'
PLANTS = '<BrushLabels name="p" toName="image" smart="false" value="$plants"/>'


@pytest.mark.parametrize("plants", [None, "", "Cat", {"value": "Cat"}, [], ["Cat"]])
def test_a_control_without_labels_in_this_task_takes_none_from_another(client: FlaskClient, plants: Any) -> None:
    config = view(IMAGE, PLANTS, ANIMALS, '<KeyPointLabels name="kp" toName="image" value="$animals"/>')
    data = {"image": "/a.png", "plants": plants, "animals": [{"value": "Cat"}]}
    assert answer(client, config, click("Cat"), data=data) == [("a", "image", "brushlabels", ["Cat"])]


def test_labels_of_the_task_are_found_for_each_image_of_a_repeater(client: FlaskClient) -> None:
    inner = PLANTS + ANIMALS + '<KeyPointLabels name="k" toName="image" value="$animals"/>'
    inner = inner.replace('"$', '"$items[{{idx}}].').replace('"image"', '"im_{{idx}}"')
    for name in ("p", "a", "k"):
        inner = inner.replace(f'name="{name}"', f'name="{name}_{{{{idx}}}}"')
    image = '<Image name="im_{{idx}}" value="$items[{{idx}}].url"/>'
    config = view(f'<Repeater on="$items">{image}{inner}</Repeater>')
    items = [
        {"url": f"/{n}.png", "plants": [{"value": "Tree"}], "animals": [{"value": f"Dog {n}"}]} for n in range(2)
    ]
    assert setup(client, config) == ""
    drawn = {"from_name": "k_1", "to_name": "im_1"}
    found = answer(client, config, click("Dog 1", **drawn), data={"items": items})
    assert found == [("a_1", "im_1", "brushlabels", ["Dog 1"])]
    assert refusal(client, config, click("Dog 0", **drawn), data={"items": items})


def test_a_label_may_hold_the_number_of_a_repeater(client: FlaskClient) -> None:
    config = REPEATER.replace('<Label value="Tree"/>', '<Label value="Tree {{idx}}"/>')
    data = {"images": [{"url": "/0.png"}, {"url": "/1.png"}]}
    assert setup(client, config) == ""
    prompt = {"from_name": "kp_1", "to_name": "im_1"}
    assert answer(client, config, click("Tree 1", **prompt), data=data)[0][3] == ["Tree 1"]
    assert refusal(client, config, click("Tree 0", **prompt), data=data)


def test_the_text_of_a_label_is_its_value_as_in_the_editor(client: FlaskClient) -> None:
    written = (each.replace('<Label value="Tree"/>', "<Label>Tree</Label>") for each in (TREES, BOTH))
    config = view(IMAGE, *written, HOUSES)
    assert setup(client, config) == ""
    assert answer(client, config, click("Tree")) == [("trees", "image", "brushlabels", ["Tree"])]


def test_a_label_selected_in_a_plain_control_beside_the_smart_one_is_no_error(client: FlaskClient) -> None:
    plain = BOTH.replace('"kp"', '"manual"').replace(" choice", ' smart="false" choice')
    second = click("House", from_name="manual")
    found = answer(client, view(IMAGE, TREES, HOUSES, BOTH, plain), click("Tree"), second)
    assert found == [("trees", "image", "brushlabels", ["Tree"])]


def test_an_object_with_several_labels_is_finished_before_the_next_one(client: FlaskClient) -> None:
    output = TREES.replace(labels("Tree"), labels("Tree", "House"))
    config = view(IMAGE, output, BOTH)
    first, second = click("Tree", "House", id="p1"), click("Tree", id="p2")
    (mask,) = client.post("/predict", json=payload(first, config=config)).json["results"][0]["result"]
    alone = client.post("/predict", json=payload(second, config=config)).json["results"]
    both = payload(first, second, config=config, drafts=[{"result": [first, mask, second]}])
    assert client.post("/predict", json=both).json["results"] == alone


def test_a_cure_for_prompts_without_a_label_is_one_that_helps(client: FlaskClient) -> None:
    prompts = BOTH.replace(" choice", ' allowEmpty="true" choice')
    output = TREES.replace(labels("Tree"), labels("Tree", "House"))
    assert setup(client, view(IMAGE, output, prompts)).endswith('write allowEmpty="true" in both or in neither')


def test_an_address_made_of_a_long_value_many_times_is_not_written_out(client: FlaskClient) -> None:
    repeated = " $a" * 10_000
    config = view(f'<Image name="image" value="{repeated}"/>', TREES, HOUSES, BOTH)
    assert "must be the address" in refusal(client, config, click("Tree"), data={"a": "x" * 20_000})
