"""Where numbers come from: versions of the software, checksums of files."""

import hashlib
import platform
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

TOOL = "torch_zoo"
# Read from the packages' metadata: importing torch only to ask for its version costs seconds.
_PACKAGES = ("torch", "torchvision", "av", "numpy", "pillow")


@cache
def software() -> dict[str, Any]:
    """Versions of the tool and of everything the numbers can depend on; "not installed" where that is so."""
    versions: dict[str, Any] = {TOOL: tool_version(), "python": platform.python_version()}
    versions |= {package: _package_version(package) for package in _PACKAGES}
    versions["libav"] = _libav_versions()
    versions["platform"] = platform.platform()
    return versions


def tool_version() -> str:
    """The version of the checkout in use; that of the installed package where there is no checkout."""
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == TOOL:
            return project["version"]
    return _package_version(TOOL)


def _package_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _libav_versions() -> dict[str, str]:
    """The decoder libraries inside PyAV, for example `{"libavcodec": "62.11.100"}`."""
    try:
        import av  # late: a run over images or texts never needs it
    except ImportError:
        return {}
    return {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}


def file_sha256(path: Path | str) -> str:
    """Hexadecimal sha256 of a file of any size in constant memory. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(files: Sequence[Path]) -> str:
    """That of one file; of several, one for their names and contents, in whatever order they are given."""
    if len(files) == 1:
        return file_sha256(files[0])
    lines = sorted(f"{file.name} {file_sha256(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
