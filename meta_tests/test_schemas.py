"""The schemas in specs/schema are current, and shipped and stored files fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fixtures.schemas import DESCRIBED, schema_text
from meta_tests.conftest import ROOT

SCHEMAS = ROOT / "specs" / "schema"
SPECS = sorted(ROOT.glob("specs/*.yaml"))
ENTRIES = sorted(ROOT.glob("specs/catalog/*/*.yaml"))
STORED = sorted((ROOT / "meta_tests" / "data").glob("*/*.json"))


def schema(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return read


@pytest.mark.parametrize("name", DESCRIBED)
def test_schema_is_current(name: str) -> None:
    """Where this fails: `python -m tools.write_schemas`."""
    assert (SCHEMAS / f"{name}.schema.json").read_text() == schema_text(name)
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_every_schema_has_a_model() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{name}.schema.json" for name in DESCRIBED}


@pytest.mark.parametrize("path", [*SPECS, *ENTRIES], ids=lambda path: path.stem)
def test_yaml_file_names_its_schema_and_fits_it(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    name = "spec" if path in SPECS else "catalog"
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == SCHEMAS / f"{name}.schema.json"
    jsonschema.validate(yaml.safe_load(path.read_text()), schema(name))


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_stored_file_fits_its_schema(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text()), schema("manifest" if path.name == "manifest.json" else "summary"))


def test_variant_fits_the_schema_with_dtype_or_its_alias_precision() -> None:
    data = yaml.safe_load((ROOT / "specs/export.yaml").read_text())
    for keys, fits in (({"dtype"}, True), ({"precision"}, True), ({"dtype", "precision"}, False)):
        variants = [data["variants"][0] | dict.fromkeys(keys, "fp16")]
        validator = jsonschema.Draft202012Validator(schema("spec"))
        assert validator.is_valid({**data, "variants": variants}) == fits
    alias = schema("spec")["$defs"]["Variant"]["properties"]["precision"]
    assert alias["deprecated"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("dtype",), "fp8"),
        (("variants", 0, "precision"), "fp8"),
        (("variants", 0, "hieght"), 64),
        (("batches",), []),
        (("variants", 0, "height"), 0),
    ],
    ids=str,
)
def test_broken_spec_does_not_fit_its_schema(path: tuple[str | int, ...], value: object) -> None:
    data = yaml.safe_load((ROOT / "specs/export.yaml").read_text())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema("spec"))
