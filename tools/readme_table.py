"""Writes the table of arguments in README.md from configs/extract.yaml: `python tools/readme_table.py`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.command_line import CONFIGS, groups_of, option_names, parts, short_name  # noqa: E402

README = ROOT / "README.md"
BEGIN = "<!-- arguments: made by tools/readme_table.py -->"
END = "<!-- end of arguments -->"
_KEY = re.compile(r"(?P<key>\w+): (?P<default>\S.*?)(?:  # (?P<meaning>.*))?")
Rows = dict[str, tuple[str, str]]  # key: default, meaning


def table() -> str:
    """A row for each key: groups first (their options are the files of the group's folder), then the plain keys."""
    groups: Rows = {}
    keys: Rows = {}
    for config, text in parts("extract"):
        groups |= {short_name(group): _group(group, chosen) for group, chosen in groups_of(config).items()}
        matches = [match for line in text.splitlines() if (match := _KEY.fullmatch(line))]
        keys |= {m["key"]: (m["default"], (m["meaning"] or "").replace("|", "\\|")) for m in matches}
    rows = groups | {key: row for key, row in keys.items() if key not in groups}
    lines = [f"| `{key}` | `{default}` | {meaning} |" for key, (default, meaning) in rows.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines])


def _group(group: str, chosen: str | list[str] | None) -> tuple[str, str]:
    folder = group.removeprefix("/").partition("@")[0]
    options = ", ".join(f"`{option}`" for option in option_names(CONFIGS / folder))
    if isinstance(chosen, list):
        return ", ".join(chosen), f"one or a list of {options}"
    return chosen or "null", f"one of {options}"


def with_table(readme: str) -> str:
    """`readme` with today's table between the two markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
