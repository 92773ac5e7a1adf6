"""What can be said of a job from its files in configs/ alone: README.md's table and `--help` are made of this."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils.command_line import CONFIGS, groups_of, option_names, parts, short_name

_KEY = re.compile(r"(?P<name>\w+): (?P<default>\S.*?)(?:  # (?P<meaning>.*))?")
_PACKAGE = "# @package"


@dataclass(frozen=True)
class Key:
    """`section` is the heading that it stands under, in its file."""

    name: str
    default: str
    meaning: str
    section: str = ""


@dataclass(frozen=True)
class Group:
    """Options, each with what its file says of it; `several` may be given in a list."""

    name: str
    chosen: str
    options: dict[str, str]
    several: bool
    folder: Path


@dataclass(frozen=True)
class Job:
    name: str
    summary: str
    commands: list[str]
    groups: list[Group]
    keys: list[Key]


def job_names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def summary(job: str) -> str:
    """What it does, in the first words of its file."""
    return _header((CONFIGS / f"{job}.yaml").read_text(encoding="utf-8"))[0]


def described(job: str) -> Job:
    groups: dict[str, Group] = {}
    keys: dict[str, Key] = {}
    text = ""
    for config, text in parts(job):
        groups |= {short_name(group): _group(group, chosen) for group, chosen in groups_of(config).items()}
        keys |= {key.name: key for key in keys_in(text)}
    plain = [key for name, key in keys.items() if name not in groups]
    return Job(job, *_header(text), list(groups.values()), plain)


def keys_in(text: str) -> list[Key]:
    """The keys on lines of their own, those with a default, in a file of configs/."""
    keys, section = [], _header(text)[0] if text.startswith(_PACKAGE) else ""
    body = text[len(_comments(text)) :]
    for line in body.splitlines():
        if line.startswith("# "):
            section = line.removeprefix("# ").rstrip(":.")
        elif match := _KEY.fullmatch(line):
            keys.append(Key(match["name"], match["default"], match["meaning"] or "", section))
    return keys


def _group(group: str, chosen: str | list[str] | None) -> Group:
    folder = CONFIGS / group.removeprefix("/").partition("@")[0]
    options = {
        option: re.split(r"(?<=[a-z)])\. ", _header(_text(folder, option))[0])[0] for option in option_names(folder)
    }
    several = isinstance(chosen, list)
    shown = f"[{', '.join(chosen)}]" if isinstance(chosen, list) else chosen or "null"
    return Group(short_name(group), shown, options, several, folder)


def option_keys(group: Group) -> list[Key]:
    """Those of the option that is chosen, as they are typed: `schedule.warmup_steps`."""
    if group.chosen not in group.options or "@package" in (text := _text(group.folder, group.chosen)):
        return []
    found = [key for key in keys_in(text) if not key.default.startswith(("${", "{_target_"))]
    known = yaml.safe_load(text).keys()
    return [
        Key(f"{group.name}.{key.name}", key.default, key.meaning)
        for key in found
        if key.name in known and not key.name.startswith("_") and key.name not in ("defaults", group.name)
    ]


def _text(folder: Path, option: str) -> str:
    return (folder / f"{option}.yaml").read_text(encoding="utf-8")


def _comments(text: str) -> str:
    """Those that a file begins with."""
    return re.match(r"(#.*\n)*", text)[0]  # type: ignore[index] - matches always


def _header(text: str) -> tuple[str, list[str]]:
    """What a file says of itself before its first command, and its commands, which are indented."""
    lines = [line.removeprefix("#") for line in _comments(text).splitlines() if not line.startswith(_PACKAGE)]
    words = itertools.takewhile(lambda line: not line.startswith("   "), lines)
    return " ".join(map(str.strip, words)).rstrip(":."), [line.strip() for line in lines if line.startswith("   ")]
