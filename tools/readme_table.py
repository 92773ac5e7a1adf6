"""Writes the table of arguments in README.md from configs/extract.yaml: `python tools/readme_table.py`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.job_keys import Group, described  # noqa: E402

README = ROOT / "README.md"
BEGIN = "<!-- arguments: made by tools/readme_table.py -->"
END = "<!-- end of arguments -->"


def table() -> str:
    """A row for each key: groups first (their options are the files of the group's folder), then the plain keys."""
    job = described("extract")
    rows = [(group.name, group.chosen.strip("[]"), _options(group)) for group in job.groups]
    rows += [(key.name, key.default, key.meaning.replace("|", "\\|")) for key in job.keys]
    lines = [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in rows]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines])


def _options(group: Group) -> str:
    return f"one {'or a list ' * group.several}of {', '.join(f'`{option}`' for option in group.options)}"


def with_table(readme: str) -> str:
    """`readme` with today's table between the two markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
