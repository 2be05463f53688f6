"""docs/columns.md and docs/spec.md explain every field of every model, and are those of the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from fixtures.declarations import libraries
from fixtures.environment import environment
from fixtures.field_tables import FILES, columns_page, with_field_tables
from fixtures.schemas import DESCRIBED, schema_of
from fixtures.spec import Budget, CpuLimits, Frame, Serving, Spec, Target, Variant
from meta_tests.conftest import ROOT

COLUMNS, SPEC = (ROOT / "docs" / name for name in ("columns.md", "spec.md"))
# Units, and for counts the word that says what is counted.
UNIT = re.compile(
    r"milliseconds|[Ss]econds|MiB|bytes|MHz|Celsius|watts|percent|per second|pixels|tokens|items|as a part of 1"
    r"|[Rr]atio|logarithms|[Rr]elative L2|scale from 0 to 1|unit|Number|number|[Ii]ndex|[Vv]ersion|Seed|Lengths",
)
SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Spec,
    "`target`": Target,
    "`protocol`": CpuLimits,
    "`serving`": Serving,
    "`variants`": Variant,
    "`frame`": Frame,
    "`roles`": Budget,
}


def fields_of(name: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Model and field, the field's schema, and the schemas of the models beside it."""
    schema = schema_of(name)
    models = {schema["title"]: schema, **schema.get("$defs", {})}
    for model, own in models.items():
        for field, described in own["properties"].items():
            yield f"{model}.{field}", described, models


def types_in(field: dict[str, Any]) -> set[str]:
    found = {str(field.get("type", ""))}
    children = [*field.get("anyOf", ()), *field.get("prefixItems", ()), field.get("items"), *values_of(field)]
    for child in children:
        found |= types_in(child) if isinstance(child, dict) else set()
    return found


def values_of(field: dict[str, Any]) -> list[Any]:
    return [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_model_and_field_has_a_description(name: str) -> None:
    for field, described, models in fields_of(name):
        assert models[field.partition(".")[0]]["description"], field
        assert described.get("description", "").endswith((".", ":")), field


@pytest.mark.parametrize("name", DESCRIBED)
def test_description_of_a_number_names_its_unit_or_what_it_counts(name: str) -> None:
    for field, described, _ in fields_of(name):
        if types_in(described) & {"number", "integer"} and "string" not in types_in(described):
            assert UNIT.search(described["description"]), field


@pytest.mark.parametrize(("name", "field"), [("summary", "environment"), ("results_row", "device_profile")])
def test_description_of_the_machine_names_every_key(name: str, field: str) -> None:
    described = schema_of(name)["properties"][field]["description"]
    keys = environment("cpu", None).keys() - libraries() - {"numpy", "pytest", "pytest-benchmark"}
    assert set(re.findall(r"`(\w+)`", described)) == keys


def test_columns_page_is_current() -> None:
    """Where this fails: `python -m tools.write_schemas`."""
    assert COLUMNS.read_text() == columns_page()


def test_tables_of_the_spec_page_are_current() -> None:
    """Where this fails: `python -m tools.write_schemas`."""
    assert SPEC.read_text() == with_field_tables(SPEC.read_text())


def test_every_written_file_has_a_section_of_columns() -> None:
    assert FILES.keys() == DESCRIBED.keys() - {"spec", "catalog"}
    sections = re.findall(r"^## (.+)$", COLUMNS.read_text(), re.MULTILINE)
    assert sections == list(FILES.values())


def test_every_table_of_the_spec_page_has_the_keys_of_its_section() -> None:
    parts = re.split(r"^## (.+)\n", SPEC.read_text(), flags=re.MULTILINE)
    found = {
        heading: re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
        for heading, part in zip(parts[1::2], parts[2::2], strict=True)
    }
    for heading, model in SECTIONS.items():
        assert found[heading] == list(model.model_fields), heading
    named = {Spec.__name__, *schema_of("spec")["$defs"]}
    assert {model.__name__ for model in SECTIONS.values()} == named


@pytest.mark.parametrize("page", [COLUMNS, SPEC], ids=lambda page: page.name)
def test_links_within_a_page_lead_to_a_heading(page: Any) -> None:
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= anchors


def test_key_under_another_section_is_seen() -> None:
    """A key of a variant in the table of roles, as this page once had it."""
    row = "| `gpu` | string |  | Part of the GPU's product name. |\n"
    page = SPEC.read_text()
    assert with_field_tables(page.replace("| `keep` |", f"{row}| `keep` |")) == page
