"""Sessions in places as people have them: Cyrillic names with spaces, files saved by Windows, read-only roots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from fixtures.measure.fork_server import fork_server
from fixtures.results.reading import read_run
from meta_tests.cache import link_tree
from meta_tests.conftest import SMALL_SPEC, Suite, _main
from meta_tests.read_only import heed_permissions, read_only


class HeedingSuite(Suite):
    """Runs pytest in a process for which permissions hold, also where the tests run as root."""

    def start(self, *arguments: str, words: str = "said") -> BaseProcess:
        """Begin to run."""
        outputs = (self.folder / f"{words}.out", self.folder / f"{words}.err")
        process = fork_server().Process(target=_heeding, args=(self.arguments(*arguments), *outputs, self.variables))
        process.start()
        return process


def _heeding(arguments: list[str], stdout: Path, stderr: Path, variables: Mapping[str, str]) -> None:
    heed_permissions()
    probe = Path(arguments[arguments.index("--models-root") + 1]) / "probe"
    try:
        probe.touch()
    except PermissionError:
        _main(arguments, stdout, stderr, variables)
    else:
        raise AssertionError(f"{probe} could be written")


@pytest.fixture
def root(tmp_path: Path, bundle_root: Path) -> Iterator[Path]:
    with read_only(link_tree(bundle_root, tmp_path / "веса и модели")) as folder:
        yield folder


def test_read_only_root_and_spec_of_windows_under_cyrillic_names_are_measured(tmp_path: Path, root: Path) -> None:
    spec = tmp_path / "моя спецификация.yaml"
    text = SMALL_SPEC.replace("name: small\n", "name: small\nowner: группа зрения # CRLF\n")
    spec.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    folder = tmp_path / "итоги прогона"
    folder.mkdir()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ended = HeedingSuite(folder, root).run("--spec", str(spec), "--run-id", "r", "-k", "midas_small_64-b1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"wrote {folder / 'out' / 'r' / 'results.jsonl'}" in ended.stdout
    (measured,) = read_run(folder / "out" / "r").cases
    assert (measured.status, measured.variant) == ("ok", "midas_small_64")
    assert "группа зрения" in (folder / "out/r/results.jsonl").read_text()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
