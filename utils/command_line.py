"""The command line before Hydra reads it: file names of any shape get through, a misspelt word says what was meant.

Hydra's grammar gives meaning to `=`, `,`, quotes, brackets and outer spaces, which file names and texts may well hold.
A value (or an element of a list) that names an existing file is taken as that file; a value that Hydra cannot read is
read as YAML, which is what video_features does. Values are data: `${...}` in one is text, and none names code to run;
both are for the files of configs/.

Options lie in folders below the job that reads them; users type the folder's name (`on_extraction=print`), Hydra wants
to know where it lies and where in the config it goes (`extract/on_extraction@on_extraction=print`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

from utils.build import NAMES_CODE
from utils.errors import UserError, did_you_mean, first_line
from utils.other_tools import hint

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT_JOB = "extract"
_NAMES_FILES = (  # beside keys that end in _path(s), _dir
    *("model_name", "pretrained", "file_with_texts", "annotations", "image_folder", "caption_model", "start_from"),
    *("predictions", "references", "finecapeval", "score_model"),
)
_SEVERAL = ("_paths", "data_path")  # ends of keys that take a list of names as well
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, on all common systems
FLAGS = (  # Hydra's own
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m", "--info", "-i"),
    *("--shell-completion", "-sc"),
)
FLAGS_WITH_VALUES = (
    *("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c"),
    "--experimental-rerun",
)
_OVERRIDE = re.compile(r"(?P<sign>[+~]*)(?P<key>[\w./@:-]+)(?P<value>=.*)?", re.DOTALL)


def prepare(arguments: Sequence[str]) -> list[str]:
    """The arguments for Hydra. UserError for a key, option or job that does not exist, naming the nearest."""
    job = _job(job_name(arguments))
    many_runs, prepared, of_flag = has_many_runs(arguments), [], False
    for argument in arguments:
        prepared.append(argument if of_flag else _prepare_one(argument, job, many_runs))
        of_flag = argument in FLAGS_WITH_VALUES
    return prepared


def has_many_runs(arguments: Sequence[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(arguments)


@dataclass(frozen=True)
class _Job:
    """What can be given to a job: its keys as users type them, with their defaults, and Hydra's names of the groups."""

    name: str
    defaults: dict[str, Any]
    groups: dict[str, str]


def _job(name: str) -> _Job:
    configs = [config for config, _ in parts(name)]
    chosen = {short_name(group): option for config in configs for group, option in groups_of(config).items()}
    groups = {short_name(group): group.removeprefix("/") for config in configs for group in groups_of(config)}
    return _Job(name, {key: value for config in configs for key, value in config.items()} | chosen, groups)


def parts(job: str) -> list[tuple[dict[str, Any], str]]:
    """Content and text of a job's file, and before it those of what its defaults take in whole (`shared/model`)."""
    text = (CONFIGS / f"{job}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    whole = [each for each in config.get("defaults", []) if isinstance(each, str) and each != "_self_"]
    return [*(part for each in whole for part in parts(each)), (config, text)]


def groups_of(config: dict[str, Any]) -> dict[str, Any]:
    """Hydra's names of the groups in a file's defaults list, and what it chooses of each."""
    chosen = [each for each in config.get("defaults", []) if isinstance(each, dict)]
    return {group: option for each in chosen for group, option in each.items() if " " not in group}  # no override


def known_keys(job: str) -> tuple[set[str], dict[str, str]]:
    """A job's keys as users type them, and Hydra's names of those that are groups."""
    found = _job(job)
    return set(found.defaults) - {"defaults", "job", "hydra"}, found.groups


def short_name(group: str) -> str:
    """`extract/on_extraction@on_extraction` -> `on_extraction`."""
    return group.partition("@")[0].rpartition("/")[2]


def _prepare_one(argument: str, job: _Job, many_runs: bool) -> str:
    keys, groups = set(job.defaults) - {"defaults", "job", "hydra"}, job.groups
    if argument.startswith("-"):
        _check_flag(argument, keys, job.name)
        return argument
    match = _OVERRIDE.fullmatch(argument)
    if match is None or (match["value"] is None and "~" not in match["sign"]):
        raise UserError(f"{argument[:200]}: expected KEY=VALUE; a value with blanks wants quotes around it")
    sign, key, value = match["sign"], match["key"], match["value"]
    group = groups.get(short_name(key), "")
    if key not in (short_name(group), group.partition("@")[0], group):
        group = ""
    name = re.split(r"[.@/:]", key)[0]
    if name not in keys and not group and not sign and name != "hydra":
        near = hint(name, job.name) or did_you_mean(name, keys)
        raise UserError(f"{key}: no such key; {near}Keys: {', '.join(sorted(keys))}")
    if value is None:  # ~experiment
        return f"{sign}{group or key}"
    value = value[1:]
    if group:
        return _option_for_hydra(sign, key, group, value, job.defaults[short_name(group)])
    value = _value_for_hydra(argument, key, value, many_runs)
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}").value()
    except HydraException as error:  # of a key such as `a@b`
        raise UserError(f"{argument[:200]}: {first_line(error)}") from error
    if name != "hydra":
        _refuse_code(key, parsed)
    if not many_runs and key in job.defaults:
        _check_value(key, parsed, job.defaults[key])
    return f"{sign}{key}={value}"


def _option_for_hydra(sign: str, key: str, group: str, value: str, default: Any) -> str:
    """`default` tells whether there may be several options, or none."""
    options = option_names(CONFIGS / group.partition("@")[0])
    given = re.findall(r"[^\[\],\s\"']+", value)
    if given not in ([], ["null"]) or sign:
        _check_options(key, given, options)
        # Options are names, not truth values.
        return f"{sign}{group}='{value}'" if value in ("true", "false") else f"{sign}{group}={value}"
    if isinstance(default, list):
        return f"{group}=[]"
    if default is not None:
        raise UserError(f"{key}={value}: expected one of {', '.join(options)}")
    return f"~{group}"


def job_name(arguments: Sequence[str]) -> str:
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config-name", "-cn"):
            job = value if equals else "".join(arguments[i + 1 : i + 2])
            jobs = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
            if job not in jobs and not (CONFIGS / f"{job}.yaml").is_file():
                raise UserError(f"--config-name {job}: no such job; {did_you_mean(job, jobs)}Jobs: {', '.join(jobs)}")
            return job
    return DEFAULT_JOB


def option_names(group: Path) -> list[str]:
    """Without the ending; those in folders of the group with their folder, as `ViT-B/32`."""
    return sorted(path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml"))


def _check_flag(argument: str, keys: set[str], job: str) -> None:
    """`--model_name X` and `--model_name=X`, as other tools have it, are answered with the form used here."""
    name = argument.lstrip("-").partition("=")[0]
    if argument.startswith("--") and name in keys:
        raise UserError(f"{argument}: write {name}=VALUE, without dashes")
    if argument.partition("=")[0] not in FLAGS + FLAGS_WITH_VALUES:
        raise UserError(f"{argument[:200]}: no such flag; {hint(argument, job)}expected KEY=VALUE")


def _refuse_code(key: str, value: Any) -> None:
    """UserError for what names code to run: a value may come from anywhere, the files of configs/ do not."""
    if isinstance(value, ChoiceSweep):
        value = value.list
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    if not set(NAMES_CODE).isdisjoint([*key.split("."), *(str(each) for each, _ in inside)]):
        raise UserError(f"{key}: a value names no code (`_target_` and the like); that stands in a file of configs/")
    for name, each in inside:
        _refuse_code(f"{key}.{name}", each)


def _check_value(key: str, value: Any, default: Any) -> None:
    """UserError for what can be no value of a key, whatever it means; the rest is told by whoever reads it."""
    if isinstance(default, dict):
        raise UserError(f"{key}: other keys fill this one; give one of its own, {key}.NAME=VALUE")
    if isinstance(default, list) and not isinstance(value, list):
        raise UserError(f'{key}={value}: expected a list, "[a, b]"')
    if not _names_files(key):
        return
    if value in (None, "") and key == "output_path":
        raise UserError(f"{key}: expected a folder, found nothing")
    several = key.endswith(_SEVERAL)  # then each costs itself alone, whatever its length
    for name in value if several and isinstance(value, list) else [value]:
        text = str(name or "").replace("\\${", "${")
        if not isinstance(name, str | int | float | None) or isinstance(name, bool) or "\0" in text:
            raise UserError(f"{key}={str(value)[:200]!r}: expected the name of a file or folder")
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in (text, *text.split("/"))]
        if not several and (sizes[0] > _LONGEST_PATH or max(sizes[1:]) > _LONGEST_NAME):
            raise UserError(f"{key}={text[:80]}...: {sizes[0]} bytes, longer than the name of a file can be")


def _names_files(key: str) -> bool:
    return key.endswith(("_path", "_paths", "_dir")) or key in _NAMES_FILES


def _check_options(group: str, given: list[str], options: list[str]) -> None:
    for option in given:
        if option != "null" and option not in options:
            raise UserError(
                f"{group}={option}: no such option; {did_you_mean(option, options)}Options: {', '.join(options)}"
            )


def _value_for_hydra(argument: str, key: str, value: str, many_runs: bool) -> str:
    names_files = _names_files(key)
    if names_files:
        if _is_file(value):
            return quoted(value)
        elements = _yaml_list(value) or []
        if any(_is_file(element) for element in elements):
            return _from_yaml(key, value)
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return _from_yaml(key, value)
    if override.is_sweep_override():
        if many_runs and "${" in value and not _may_refer(key, many_runs):
            raise UserError(f"{key}: one of several values cannot hold `${{`; give each run a command of its own")
        if many_runs:
            return value
        # Without -m, "a cat, on a sofa" is a text, not two values to be tried in turn.
        return _from_yaml(key, value)
    parsed = override.value()
    scalars = parsed if isinstance(parsed, list) else [parsed]
    if names_files and any(isinstance(scalar, int | float) for scalar in scalars):
        return _from_yaml(key, value)  # 007 is a name here
    if isinstance(parsed, str) and parsed != value and parsed == value.strip():
        return quoted(value)  # the space behind "a photo of " belongs to it
    return value if "${" not in value or _may_refer(key, many_runs) else _literal(parsed)


def _may_refer(key: str, many_runs: bool) -> bool:
    """To other keys: Hydra's own, and with -m, where each run needs a folder, `output_path='out/${seed}'`."""
    return key.startswith("hydra.") or (many_runs and key == "output_path")


def _literal(value: Any) -> str:
    """What Hydra has read of an argument, for it to read again, without interpolations."""
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_literal(each)}' for key, each in value.items())}}}"
    return quoted(value) if isinstance(value, str) else "null" if value is None else str(value).lower()


def _is_file(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(name) and Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, say: no file then
        return False


def _yaml_list(value: str) -> list[Any] | None:
    try:
        content = yaml.load(value, yaml.BaseLoader)  # as safe as safe_load, and leaves 007, yes and null as they are
    except yaml.YAMLError:
        return None
    return content if isinstance(content, list) else None


def _from_yaml(key: str, value: str) -> str:
    elements = _yaml_list(value)
    if elements is None:
        return quoted(value)
    for element in elements:
        if not isinstance(element, str):
            raise UserError(f"{key}: expected a list of texts, found {element!r} in it; put quotes around each text")
    return f"[{','.join(map(quoted, elements))}]"


def quoted(text: str) -> str:
    """`text` as a quoted string in Hydra's grammar that OmegaConf takes literally."""
    # No interpolation; the backslashes before one count, and only those.
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
    # Backslashes count only before a quote or the end: there each is doubled.
    escaped = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'"{escaped}"'
