"""Writes the table of arguments in README.md from configs/extract.yaml: `python tools/readme_table.py`."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.command_line import option_names  # noqa: E402

README = ROOT / "README.md"
CONFIGS = ROOT / "configs"
BEGIN = "<!-- arguments: made by tools/readme_table.py -->"
END = "<!-- end of arguments -->"
_KEY = re.compile(r"(?P<key>\w+): (?P<default>\S.*?)(?:  # (?P<meaning>.*))?")


def table() -> str:
    """A row for each key: groups first (their options are the files of the group's folder), then the plain keys."""
    text = (CONFIGS / "extract.yaml").read_text(encoding="utf-8")
    rows = [*_group_rows(yaml.safe_load(text)["defaults"]), *_key_rows(text)]
    lines = ["| key | default | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in rows])


def _group_rows(defaults: list[dict | str]) -> list[tuple[str, str, str]]:
    groups = {group: chosen for default in defaults if isinstance(default, dict) for group, chosen in default.items()}
    rows = []
    for group, chosen in groups.items():
        if group.startswith("override "):
            continue
        options = ", ".join(f"`{option}`" for option in option_names(CONFIGS / group))
        several = isinstance(chosen, list)
        meaning = f"one or a list of {options}" if several else f"one of {options}"
        rows.append((group, ", ".join(chosen) if several else chosen or "null", meaning))
    return rows


def _key_rows(text: str) -> list[tuple[str, str, str]]:
    matches = [_KEY.fullmatch(line) for line in text.splitlines()]
    return [(m["key"], m["default"], (m["meaning"] or "").replace("|", "\\|")) for m in matches if m]


def with_table(readme: str) -> str:
    """`readme` with today's table between the two markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
