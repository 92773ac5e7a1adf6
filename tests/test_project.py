"""The files around the code agree with each other, and none of them tells of the machine it was written on."""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
CONDA = yaml.safe_load((ROOT / "conda_env_torch_zoo.yml").read_text(encoding="utf-8"))


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bounds(requirements: list[str]) -> dict[str, SpecifierSet]:
    found = {normalized(each.name): each.specifier for each in map(Requirement, requirements)}
    assert all(">=" in str(bound) for bound in found.values()), "every dependency has a lower bound"
    return found


def pinned() -> dict[str, set[str]]:
    """Name -> versions; several where they depend on the version of Python."""
    pins: dict[str, set[str]] = {}
    for line in PINS.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==(\d[\w.]*)( ; .+)?", line)
            assert match, f"requirements.txt: {line!r} is not NAME==VERSION"
            pins.setdefault(normalized(match[1]), set()).add(match[2])
    return pins


def text_files() -> list[Path]:
    """What is, or is about to be, under version control; everything outside hidden folders where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        files = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
        files = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.iterdir())
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def test_pins_are_within_the_bounds() -> None:
    wanted = bounds([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
    pins = pinned()
    assert {name for name in wanted if len(pins.get(name, ())) != 1} == set()
    outside = {name: pins[name] for name, bound in wanted.items() if not all(map(bound.contains, pins[name]))}
    assert outside == {}


def test_an_environment_keeps_its_pytorch() -> None:
    """The bounds are no copy of the pins: what clusters and Colab have is enough."""
    kept = {"torch": "2.6.0", "torchvision": "0.21.0", "numpy": "1.26.4", "pillow": "11.3.0", "transformers": "4.57.0"}
    found = bounds(PROJECT["dependencies"])
    assert [name for name, version in kept.items() if not found[name].contains(version)] == []


def test_conda_pins_the_direct_dependencies() -> None:
    assert CONDA["name"] == "torch_zoo"
    (pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    found = {normalized(name): version for name, version in (entry.split("==") for entry in pip)}
    pins = pinned()
    assert found == {name: "".join(pins[name]) for name in bounds(PROJECT["dependencies"])}
    (python,) = [entry for entry in CONDA["dependencies"] if str(entry).startswith("python=")]
    assert PROJECT["requires-python"] == python.replace("=", ">=").removeprefix("python")


def test_there_is_a_changelog_for_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(PROJECT['version'])})\]", changes, re.MULTILINE)


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")
    job = workflow["jobs"]["test"]
    assert job["steps"][-1] == {"run": "make ${{ matrix.target }}"}
    assert job["strategy"]["matrix"]["target"] == ["test", "lowest"]
    assert ">=" + job["strategy"]["matrix"]["python"][0] == PROJECT["requires-python"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_another_build_of_pytorch_is_asked_for_by_its_name(tmp_path: Path) -> None:
    def plan(*words: str) -> str:
        command = ["make", "-n", "install", f"VENV={tmp_path}", *words]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TORCH_BACKEND"))}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    pinned_ones = "--requirement requirements.txt"
    assert pinned_ones in plan()
    assert "--torch-backend" not in plan()
    assert plan("TORCH_BACKEND=cu126").count("--torch-backend cu126") == 2
    for name in ("bin/uv", ".torch_backend", ".installed"):  # as if that had been done
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("cu126\n" if name == ".torch_backend" else "")
    assert "pip install" not in plan() + plan("TORCH_BACKEND=cu126")
    assert pinned_ones in plan("TORCH_BACKEND=")


@pytest.mark.parametrize(
    "pattern",
    [
        r"pypi\.(org|python)|python[h]osted|download\.pytorch|npmjs\.(org|com)|anaconda\.(org|com)",
        r"--(extra-)?index-url|--find-links|--trusted-host",
        r"\+(cpu|cu\d+)\b",
    ],
    ids=["hosts of registries", "options for other registries", "builds from other registries"],
)
def test_packages_come_from_wherever_the_user_gets_them(pattern: str) -> None:
    pieces = re.compile(pattern)
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in text_files()
        if path != Path(__file__).resolve()
        if (match := pieces.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found


def telling_places(root: Path, home: Path, temporary: Path) -> set[str]:
    """Folders whose names say whose machine this is; not what every machine has, such as /tmp around a clone."""
    everywhere = {temporary, *temporary.parents}
    return {str(place) for place in (root, root.parent, home) if place not in everywhere}


@pytest.mark.parametrize(
    ("root", "places"),
    [
        ("home a projects x", {"home a projects x", "home a projects", "home a"}),
        ("tmp x", {"tmp x", "home a"}),
        ("x", {"x", "home a"}),
    ],
)
def test_places_that_every_machine_has_tell_nothing(root: str, places: set[str]) -> None:
    def path(words: str) -> Path:  # no path is written out here: the clone may lie there
        return Path("/", *words.split())

    assert telling_places(path(root), path("home a"), path("tmp")) == {str(path(place)) for place in places}


def test_no_path_of_this_machine() -> None:
    places = telling_places(ROOT, Path.home(), Path(tempfile.gettempdir()))
    pieces = re.compile("|".join(rf"{re.escape(place)}(?![\w.-])" for place in places))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in text_files()
        if (match := pieces.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found
