"""The files and folders that specs and the shipped catalog name."""

from __future__ import annotations

from fixtures.bundle_check.artifacts import artifacts_of
from fixtures.bundle_check.catalog import load_catalog
from fixtures.cases import exports_of
from fixtures.models import tower_of
from fixtures.spec import load_spec
from meta_tests.conftest import ROOT

BASELINE, SERVED = ROOT / "specs/bundle.yaml", ROOT / "specs/baseline_gpu.yaml"
CATALOG = load_catalog(ROOT / "specs/catalog")
TRITON = {entry.model_name for entry in CATALOG.values() if entry.runtime == "triton"}


def test_catalog_names_every_file_that_the_baseline_loads() -> None:
    """Each file and tokenizer has an entry `inprocess`; the entry of a served branch names the file of its variant."""
    for spec in (load_spec(BASELINE), load_spec(SERVED)):
        for artifact in artifacts_of([spec], CATALOG, load_spec(BASELINE)):
            entries = [CATALOG[file] for file in artifact.catalog_files]
            assert "inprocess" in {entry.runtime for entry in entries}, artifact.path
            if artifact.kind == "file":
                assert {entry.weights_file for entry in entries} == {artifact.path}
                branches = {export.branch for export in exports_of(spec) if export.variant in artifact.variants}
                named = {entry.model_name for entry in entries}
                assert branches & TRITON <= named
            roles = {tower_of(variant).task for variant in artifact.variants}
            assert not roles or {entry.role for entry in entries} == roles


def test_catalog_names_nothing_that_the_baseline_does_not_load() -> None:
    assert all(artifact.variants for artifact in artifacts_of([load_spec(BASELINE)], CATALOG, load_spec(BASELINE)))


def test_file_that_the_baseline_calls_optional_is_optional_for_any_spec() -> None:
    """The catalog names raft_large, and this spec does not."""
    artifacts = artifacts_of([load_spec(SERVED)], CATALOG, load_spec(BASELINE))
    (large,) = [artifact for artifact in artifacts if "raft_large" in artifact.path]
    assert (large.optional, large.variants, large.glob) == (True, (), "torch_cache/hub/checkpoints/raft_large_*.pth")
    assert all(not artifact.optional for artifact in artifacts if artifact is not large)
