"""Who may import whom, and what a test run promises: nothing loaded twice, no case that is not seen."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.shared_data import LISTED, ROOT, SHARED

# A room may import any room further down, and itself.
FLOORS = ["apps", "training", "evaluation", "pairs", "models", "extraction", "store", "media", "utils"]
ON_TOP = ["main", "clip", "tools", "benchmarks", "tests", "sample"]  # may import every room; no room imports them
SOURCES = {room: sorted((ROOT / room).rglob("*.py")) for room in FLOORS}
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def upward(room: str, source: str) -> list[str]:
    above = [*FLOORS[: FLOORS.index(room)], *ON_TOP]
    return [f"{line}: {name}" for line, name in imported(source) if name.split(".")[0] in above or name[0] == "."]


def between_tests(module: str, source: str) -> list[str]:
    """Imports of another test module or a conftest, also in the source of a process that a test starts."""
    found = re.findall(r"\btests\.(?:\w+\.)*(?:test_\w+|conftest)\b|(?<=from )\.[\w.]*|\bimport tests\b.*", source)
    return [name for name in found if name != module]


def test_the_floors_are_all_the_rooms() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/*.py") if not path.parent.name.startswith(".")}
    assert rooms | {path.stem for path in ROOT.glob("*.py")} <= {*FLOORS, *ON_TOP}
    assert all(SOURCES.values())


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down(room: str) -> None:
    found = {str(path.relative_to(ROOT)): upward(room, path.read_text(encoding="utf-8")) for path in SOURCES[room]}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch, store.files\nfrom utils.errors import UserError", []),
        ("from models import clip", ["1: models"]),
        ("def late():\n    import torch, apps.search", ["2: apps.search"]),
        ("if TYPE_CHECKING:\n    from main import x", ["2: main"]),
        ("import clip, open_clip", ["1: clip"]),
        ("from tests.helpers.golden import GOLDEN", ["1: tests.helpers.golden"]),
        ("from . import atomic", ["1: ."]),
    ],
)
def test_imports_that_go_up_are_found(source: str, found: list[str]) -> None:
    assert upward("store", source) == found


def test_tests_import_helpers_only() -> None:
    found = {}
    for path in TESTS:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[module] = between_tests(module, path.read_text(encoding="utf-8")) if module != __name__ else []
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.helpers.golden import GOLDEN", []),
        ("from tests.media.test_video import clip", ["tests.media.test_video"]),
        ("script = 'from tests.test_main import run'", ["tests.test_main"]),
        ("script = 'from tests.test_itself import run'", []),
        ("from tests.store.conftest import make", ["tests.store.conftest"]),
        ("from .test_video import clip", [".test_video"]),
        ("import tests.helpers.golden as golden", ["import tests.helpers.golden as golden"]),
    ],
)
def test_imports_between_tests_are_found(source: str, found: list[str]) -> None:
    assert between_tests("tests.test_itself", source) == found


def test_no_file_is_loaded_under_two_names() -> None:
    """Or fixtures and classes exist twice, and the check of shapes is installed twice."""
    names = defaultdict(set)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(ROOT / "tests"):
            names[file].add(name)
    assert str(ROOT / "tests" / "conftest.py") in names
    assert {file: those for file, those in names.items() if len(those) > 1} == {}
    assert sum(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path) == 1


def test_every_test_has_a_time_limit(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.hasplugin("timeout")
    assert 0 < float(request.config.getini("timeout")) <= 300


def collected(shared: Path) -> set[str]:
    """Names of all tests in the modules that use ../shared, as if it were that folder."""
    modules = [str(path) for path in TESTS if re.search("SHARED|PARITY|shared_files", path.read_text(encoding="utf-8"))]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = os.environ | {"TORCH_ZOO_SHARED": str(shared)}
    done = subprocess.run([*command, *modules], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return {line for line in done.stdout.splitlines() if "::" in line}


@pytest.mark.shared
@pytest.mark.timeout(300)  # imports all that the tests import, once or twice more
def test_no_case_vanishes_without_the_shared_folder(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    absent = collected(tmp_path / "absent")
    modules = {name.split("::")[0] for name in absent}
    here = {item.nodeid for item in request.session.items if item.nodeid.split("::")[0] in modules}
    if request.config.args_source.name != "TESTPATHS" or request.config.getoption("-k"):  # a part of the tests
        here = collected(SHARED)
    assert absent == here


@pytest.mark.shared
def test_every_shared_file_that_makes_a_case_is_listed() -> None:
    listed = {line for line in LISTED.read_text(encoding="utf-8").split("\n") if line}
    folders = {"/".join(line.split("/")[:2]) for line in listed}
    there = {
        str(path.relative_to(SHARED)) for folder in folders for path in (SHARED / folder).rglob("*") if path.is_file()
    }
    assert there - {"parity/awkward_media/media.json"} == listed
