"""The README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from m2n2_backend.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_names_every_setting_with_its_default_and_meaning() -> None:
    table = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", table, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or f"M2N2_{name.upper()}")
        default = "–" if field.default in (None, ()) else f"`{field.default}`"
        if name == "cache_dir":
            default = "`~/.cache/m2n2_backend`"
        expected[variable] = f"{default} | {field.description}"
    assert rows == expected


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links
    assert not missing


def test_the_readme_opens_with_the_commands_that_ci_runs() -> None:
    assert README.split("```")[1].split("#")[0].strip() == "make demo"
    assert "make test" in (ROOT / ".ci" / "run").read_text()
