import pytest
from label_studio_fakes import CONFIG, labels
from repository import ROOT

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config import Control, LabelConfig, Target, parse_label_config
from m2n2_backend.labelstudio.contract.label_config.xml_limits import MAX_CHARS

SHIPPED = ROOT / "label_config"
IMAGE = '<Image name="image" value="$image"/>'
POINTS = f'<KeyPointLabels name="kp" toName="image" smart="true">{labels("Cat")}</KeyPointLabels>'


def config(*controls: str, image: str = IMAGE) -> str:
    return f"<View>{image}{''.join(controls)}</View>"


def control(tag: str, *names: str, name: str = "out", smart: str = "false") -> str:
    return f'<{tag} name="{name}" toName="image" smart="{smart}">{labels(*names)}</{tag}>'


def output(parsed: LabelConfig) -> Control:
    """The control that masks go to first."""
    return parsed.images[0].outputs[0]


def target(parsed: LabelConfig, *named: str) -> Target:
    """Where the mask of a click with these labels goes."""
    (found,) = parsed.images[0].targets(named, {})
    return found


def sound(xml: str) -> LabelConfig:
    """A config as /setup takes it."""
    parsed = parse_label_config(xml)
    parsed.require_sound()
    return parsed


def test_the_usual_config_is_understood() -> None:
    parsed = parse_label_config(CONFIG)
    (image,) = parsed.images
    assert (image.name, image.pages) == ("image", False)
    assert next(iter(parsed.addresses({"image": "a.png"})))[1:] == (0, "a.png")
    assert (output(parsed).name, output(parsed).shape, output(parsed).type) == ("brush", "brush", "brushlabels")
    assert [label.sent for label in output(parsed).labels] == ["Cat", "Dog"]
    assert parsed.prompts == {"kp", "rect"}


def shipped(name: str) -> str:
    return (SHIPPED / f"{name}.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["brush", "polygon", "bitmask"])
def test_a_shipped_config_has_one_row_of_labels_for_its_prompts_and_its_output(kind: str) -> None:
    parsed = sound(shipped(kind))
    assert (output(parsed).type, parsed.warnings) == (kind, ())
    assert parsed.prompts == {"keypoint", "rectangle"}
    assert target(parsed, "Person").separate == (("label", ("Person",)),)
    assert [group.name for group in parsed.images[0].holders] == ["label"]


@pytest.mark.parametrize("kind", ["brush", "polygon", "bitmask"])
def test_a_config_that_was_shipped_before_is_valid_and_has_the_same_labels_everywhere(kind: str) -> None:
    xml = shipped(f"old/{kind}")
    parsed = sound(xml)
    assert (output(parsed).type, parsed.warnings) == (f"{kind}labels", ())
    assert parsed.prompts == {"keypoint", "rectangle"}
    assert len(output(parsed).labels) > 1
    for label in output(parsed).labels:
        assert xml.count(f'<Label value="{label.value}"') == 3


@pytest.mark.parametrize("kind", ["brush", "polygon", "bitmask"])
def test_labels_of_the_key_points_own_earn_a_hint_at_the_config_that_spares_keys(kind: str) -> None:
    own, box = parse_label_config(shipped(f"old/{kind}")).hints
    assert '<KeyPointLabels name="keypoint">' in own
    assert f"label_config/{kind}.xml" in own
    assert "Ctrl+click" in box
    assert "careful_clicks.user.js" in box
    assert parse_label_config(shipped(kind)).hints == (box,)
    assert parse_label_config(config(control("BrushLabels", "Cat"), '<KeyPoint name="kp"/>')).hints == ()


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("BrushLabels", "brush"),
        ("BitmaskLabels", "bitmask"),
        ("PolygonLabels", "polygon"),
        ("RectangleLabels", "rectangle"),
        ("brushlabels", "brush"),
    ],
)
def test_each_output_control_is_found(tag: str, kind: str) -> None:
    parsed = parse_label_config(config(POINTS, control(tag, "Cat")))
    assert (output(parsed).shape, output(parsed).type) == (kind, f"{kind}labels")


def test_the_brush_wins_over_the_polygon_wherever_it_stands() -> None:
    xml = config(POINTS, control("PolygonLabels", "Cat", name="p"), control("BrushLabels", "Cat", name="b"))
    assert target(parse_label_config(xml), "Cat").name == "b"


def test_a_control_may_say_that_it_is_the_output() -> None:
    polygon = control("PolygonLabels", "Cat", name="poly").replace("smart=", 'm2n2="output" smart=')
    parsed = parse_label_config(config(control("BrushLabels", "Cat", name="brush"), polygon, POINTS))
    assert (target(parsed, "Cat").name, target(parsed, "Cat").kind, parsed.warnings) == ("poly", "polygon", ())


@pytest.mark.parametrize("tags", [["BrushLabels", "PolygonLabels"], ["KeyPointLabels"]])
def test_only_one_control_that_can_draw_may_be_the_output(tags: list[str]) -> None:
    marked = [control(tag, "Cat", name=tag).replace("smart=", 'm2n2="output" smart=') for tag in tags]
    with pytest.raises(InvalidLabelConfig, match='m2n2="output" belongs to one brush'):
        parse_label_config(config(*marked, POINTS))


def test_a_smart_rectangle_is_a_prompt_and_no_output() -> None:
    both = config(
        control("RectangleLabels", "Cat", name="smart", smart="true"),
        control("RectangleLabels", "Cat", name="shown", smart="false"),
    )
    parsed = parse_label_config(both)
    assert (output(parsed).name, parsed.prompts) == ("shown", {"smart"})


def test_a_smart_rectangle_is_the_output_where_nothing_else_could_be() -> None:
    parsed = parse_label_config(config(POINTS, control("RectangleLabels", "Cat", smart="true")))
    assert (output(parsed).shape, output(parsed).name) == ("rectangle", "out")


def test_brush_with_separate_labels_takes_them_from_there() -> None:
    tools = '<Brush name="brush" toName="image" smart="false"/><KeyPoint name="kp" toName="image" smart="true"/>'
    parsed = parse_label_config(config(control("Labels", "Cat", "Dog", name="labels"), tools))
    assert output(parsed).type == "brush"
    assert target(parsed, "Dog").separate == (("labels", ("Dog",)),)
    assert parsed.prompts == {"kp"}


def test_a_value_list_means_pages() -> None:
    parsed = parse_label_config(
        config(POINTS, control("BrushLabels", "Cat"), image='<Image name="image" valueList="$pages"/>')
    )
    found = parsed.addresses({"pages": ["a.png", "b.png"]})
    assert [(page, address) for _, page, address in found] == [(0, "a.png"), (1, "b.png")]


def test_smart_is_true_unless_it_is_denied() -> None:
    points = f'<KeyPointLabels name="kp" toName="image">{labels("Cat")}</KeyPointLabels>'
    assert parse_label_config(config(points, control("BrushLabels", "Cat"))).prompts == {"kp"}


@pytest.mark.parametrize("smart", ['smart="true"', ""])
def test_a_smart_output_control_is_warned_about(smart: str) -> None:
    brush = f'<BrushLabels name="out" toName="image" {smart}>{labels("Cat")}</BrushLabels>'
    (warning,) = parse_label_config(config(POINTS, brush)).warnings
    assert 'smart="false"' in warning
    assert '<BrushLabels name="out">' in warning


def test_a_prompt_label_that_no_output_knows_is_refused_where_the_backend_is_connected() -> None:
    with pytest.raises(InvalidLabelConfig, match='add <Label value="Cow"/>'):
        sound(CONFIG)


def test_a_label_is_mapped_by_name() -> None:
    assert target(parse_label_config(CONFIG), "Dog").labels == ("Dog",)


def test_any_label_becomes_the_only_one_of_the_output_if_no_prompt_has_that_one() -> None:
    parsed = sound(config(POINTS, control("BrushLabels", "Mask")))
    assert [target(parsed, *named).labels for named in (("Cat",), ())] == [("Mask",), ("Mask",)]
    (warning,) = parsed.warnings
    assert "Cat come back as Mask" in warning


def test_a_second_class_does_not_become_the_only_one_of_the_output() -> None:
    points = f'<KeyPointLabels name="kp" toName="image">{labels("Cat", "Dog")}</KeyPointLabels>'
    parsed = parse_label_config(config(points, control("BrushLabels", "Cat")))
    with pytest.raises(InvalidLabelConfig, match='add <Label value="Dog"/>'):
        target(parsed, "Dog")
    with pytest.raises(InvalidLabelConfig, match='add <Label value="Dog"/>'):
        parsed.require_sound()


def test_an_unknown_label_is_an_error_that_names_label_control_and_cure() -> None:
    with pytest.raises(InvalidLabelConfig) as caught:
        target(parse_label_config(CONFIG), "Cow")
    assert 'label "Cow"' in str(caught.value)
    assert '<BrushLabels name="brush">' in str(caught.value)
    assert 'add <Label value="Cow"/>' in str(caught.value)


def test_no_label_among_several_is_an_error() -> None:
    with pytest.raises(InvalidLabelConfig, match="select one"):
        target(parse_label_config(CONFIG))


def test_labels_that_only_the_task_knows_are_passed_on() -> None:
    brush = '<BrushLabels name="out" toName="image" smart="false" value="$labels"/>'
    (image,) = parse_label_config(config(POINTS, brush)).images
    (found,) = image.targets(("Whatever",), {"labels": [{"value": "Whatever"}]})
    assert found.labels == ("Whatever",)
    with pytest.raises(InvalidLabelConfig, match="Whatever"):
        image.targets(("Whatever",), {"labels": None})


def test_an_xml_declaration_is_no_obstacle() -> None:
    assert (
        parse_label_config('<?xml version="1.0" encoding="UTF-8"?>\n' + CONFIG).images[0].outputs[0].name == "brush"
    )


@pytest.mark.parametrize(
    ("xml", "cause"),
    [
        ("", "cannot be parsed"),
        ("<View", "cannot be parsed"),
        ("no xml", "cannot be parsed"),
        ("<View>\x00</View>", "cannot be parsed"),
        ("<View \ud800/>", "cannot be parsed"),
        ('<View><?target name="a" toName="b"?></View>', "has no image"),
        ("<a>" * 5000, "cannot be parsed"),
        ("<View>" + " " * MAX_CHARS + "</View>", "more than"),
        ("<View/>", '<Image name="image" value="$image"/>'),
        (config(POINTS), '<BrushLabels name="brush" toName="image" smart="false">'),
        (config(control("BrushLabels", "Cat")), '<KeyPointLabels name="keypoint" toName="image" smart="true">'),
        (
            config(control("BrushLabels", "Cat"), control("KeyPointLabels", "Cat", name="kp")),
            'smart="true" in <KeyPointLabels name="kp">',
        ),
        (config(POINTS, control("BrushLabels")), "has no label"),
        (config(POINTS, control("BrushLabels", "Cat"), image='<Image name="image" value="a.png"/>'), "from the task"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_the_line_to_change(xml: str, cause: str) -> None:
    with pytest.raises(InvalidLabelConfig) as caught:
        sound(xml)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE View [<!ENTITY file SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE View SYSTEM "http://127.0.0.1:9/evil.dtd">',
    ],
)
def test_entities_are_refused_before_any_parser_sees_them(declaration: str) -> None:
    with pytest.raises(InvalidLabelConfig, match="document type"):
        parse_label_config(f"{declaration}<View>{IMAGE}</View>")


def test_the_config_of_every_prompt_is_valid_and_says_what_label_studio_does_not_send() -> None:
    parsed = parse_label_config((SHIPPED / "shapes.xml").read_text(encoding="utf-8"))
    assert (output(parsed).name, output(parsed).shape) == ("mask", "brush")
    assert target(parsed, "Person").separate == (("label", ("Person",)),)
    assert parsed.prompts == {"keypoint", "rectangle", "stroke", "ellipse", "polygon"}
    assert [warning.split(">")[0].split("<")[1] for warning in parsed.warnings] == [
        'Bitmask name="stroke"',
        'Ellipse name="ellipse"',
        'Polygon name="polygon"',
    ]
    assert all("smart_tools.user.js" in warning for warning in parsed.warnings)


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "EllipseLabels", "PolygonLabels"])
def test_strokes_and_shapes_prompt_only_where_their_control_says_that_it_is_smart(tag: str) -> None:
    said = control(tag, "Cat", name="drawn", smart="true")
    unsaid = said.replace(' smart="true"', "")
    mask = control("BrushLabels", "Cat", name="mask")
    assert parse_label_config(config(mask, POINTS, said)).prompts == {"kp", "drawn"}
    assert parse_label_config(config(mask, POINTS, unsaid)).prompts == {"kp"}
    assert output(parse_label_config(config(said, POINTS, mask))).name == "mask"


def test_the_only_control_that_can_show_masks_is_no_prompt_however_smart() -> None:
    parsed = parse_label_config(config(POINTS, control("BrushLabels", "Cat", smart="true")))
    assert (output(parsed).name, parsed.prompts) == ("out", {"kp"})
    assert "never sends a request" in parsed.warnings[0]
