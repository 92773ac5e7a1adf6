"""The command line before Hydra reads it: file names of any shape get through, a misspelt word says what was meant.

Hydra's grammar gives meaning to `=`, `,`, quotes, brackets and outer spaces, which file names and texts may well hold.
A value that names an existing file is taken as that file; a value that Hydra cannot read is read as YAML, which is
what video_features does.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from utils.errors import UserError, did_you_mean

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT_JOB = "extract"
_OVERRIDE = re.compile(r"(?P<sign>[+~]*)(?P<key>[\w./@:-]+)=(?P<value>.*)", re.DOTALL)


def prepare(arguments: Sequence[str]) -> list[str]:
    """The arguments for Hydra. UserError for a key, option or job that does not exist, naming the nearest."""
    job = _job_name(arguments)
    keys, groups = _known_keys(job), _groups()
    return [_prepare_one(argument, keys, groups) for argument in arguments]


def _prepare_one(argument: str, keys: set[str], groups: dict[str, list[str]]) -> str:
    match = _OVERRIDE.fullmatch(argument)
    if match is None or (argument.startswith("-") and not match["sign"]):
        _check_flag(argument, keys)
        return argument
    sign, key, value = match["sign"], match["key"], match["value"]
    name = re.split(r"[.@/:]", key)[0]
    if name not in keys and not sign and name != "hydra":
        raise UserError(f"{key}: no such key; {did_you_mean(name, keys)}Keys: {', '.join(sorted(keys))}")
    if key in groups:
        _check_options(key, value, groups[key])
        return argument
    return f"{sign}{key}={_value_for_hydra(argument, key, value)}"


def _job_name(arguments: Sequence[str]) -> str:
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config-name", "-cn"):
            job = value if equals else "".join(arguments[i + 1 : i + 2])
            jobs = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
            if job not in jobs and not (CONFIGS / f"{job}.yaml").is_file():
                raise UserError(f"--config-name {job}: no such job; {did_you_mean(job, jobs)}Jobs: {', '.join(jobs)}")
            return job
    return DEFAULT_JOB


def _known_keys(job: str) -> set[str]:
    config = yaml.safe_load((CONFIGS / f"{job}.yaml").read_text(encoding="utf-8"))
    groups = {
        name.split("/")[0] for default in config.get("defaults", []) if isinstance(default, dict) for name in default
    }
    return {key for key in {*config, *groups} if not key.startswith("override ")} - {"defaults", "job", "hydra"}


def _groups() -> dict[str, list[str]]:
    """Config groups and their options, from the folders of configs/."""
    folders = [path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra"]
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def _check_flag(argument: str, keys: set[str]) -> None:
    """`--model_name X` and `--model_name=X`, as other tools have it, are answered with the form used here."""
    name = argument.lstrip("-").partition("=")[0]
    if argument.startswith("--") and name in keys:
        raise UserError(f"{argument}: write {name}=VALUE, without dashes")


def _check_options(group: str, value: str, options: list[str]) -> None:
    for option in re.findall(r"[^\[\],\s\"']+", value):
        if option != "null" and option not in options:
            raise UserError(
                f"{group}={option}: no such option; {did_you_mean(option, options)}Options: {', '.join(options)}"
            )


def _value_for_hydra(argument: str, key: str, value: str) -> str:
    if _names_a_file(key, value):
        return quoted(value)
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return _from_yaml(key, value)
    return value


def _names_a_file(key: str, value: str) -> bool:
    if not value or not (key.endswith(("_path", "_paths")) or key == "model_name"):
        return False
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # longer than a name can be, say: no file then
        return False


def _from_yaml(key: str, value: str) -> str:
    try:
        content = yaml.safe_load(value)
    except yaml.YAMLError:
        content = value
    if isinstance(content, list):
        return f"[{','.join(quoted(_text(key, element)) for element in content)}]"
    return quoted(value)


def _text(key: str, element: Any) -> str:
    if isinstance(element, list | dict):
        raise UserError(f"{key}: expected a list of texts, found {element!r} in it; put quotes around each text")
    return str(element)


def quoted(text: str) -> str:
    """`text` as a quoted string in Hydra's grammar that OmegaConf takes literally."""
    text = text.replace("${", "\\${")  # no interpolation
    # Backslashes count only before a quote or the end: there each is doubled.
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'"{escaped}"'
