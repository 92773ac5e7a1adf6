"""`python main.py --help`, and `--config-name train --help`: what a job does, its keys, the other jobs, commands."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from utils.command_line import DEFAULT_JOB, job_name
from utils.job_keys import Group, Job, Key, described, job_names, option_keys, summary

_ASKED = frozenset({"--help", "-h"})
_COLUMN = 34  # characters for `key=default`
_NARROWEST = 60  # columns in which meanings stand beside their keys
_BOLD, _CYAN, _DIM, _PLAIN = "\033[1m", "\033[36m", "\033[2m", "\033[0m"


def is_asked(arguments: Sequence[str]) -> bool:
    return not _ASKED.isdisjoint(arguments)


def help_page(arguments: Sequence[str]) -> str:
    """For the screen: in colours and as wide as it is; else without colours, and a line for each key.

    Of options, the keys of those that are chosen are shown: `vision=mixer --help`. UserError for an unknown job.
    """
    job = described(job_name(arguments))
    given = {name: option for name, equals, option in (each.partition("=") for each in arguments) if equals}
    job = replace(job, groups=[replace(each, chosen=given.get(each.name, each.chosen)) for each in job.groups])
    screen = sys.stdout.isatty()
    colours = screen and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    columns = shutil.get_terminal_size().columns if screen else 0
    return "\n".join(_Page(columns, colours).lines(job)) + "\n"


class _Page:
    def __init__(self, columns: int, colours: bool) -> None:
        """`columns` 0: lines as long as they are."""
        self._columns, self._colours = columns, colours

    def lines(self, job: Job) -> Iterator[str]:
        name = "" if job.name == DEFAULT_JOB else f" --config-name {job.name}"
        yield from self._wrapped(f"{job.name}: {job.summary}", 0, _BOLD)
        yield ""
        yield f"  python main.py{name} KEY=VALUE ..."
        if job.groups:
            yield from self._title("Options, each a file of configs/")
        for group in job.groups:
            yield from self._group(group)
        for section, keys in groupby(job.keys, key=lambda key: key.section):
            yield from self._title(section or "Keys of this job")
            for key in keys:
                yield from self._key(key)
        yield from self._title("Jobs, each with a --help of its own: python main.py --config-name JOB --help")
        for other in job_names():
            yield from self._row(other, summary(other))
        yield from self._title("Commands")
        yield from (f"  {command}" for command in job.commands)
        yield from self._title('Values are data, whatever is in them; lists: "[a, b]". README.md tells more')

    def _group(self, group: Group) -> Iterator[str]:
        what = "one or a list of" if group.several else "one of"
        if any(group.options.values()):
            yield from self._row(f"{group.name}={group.chosen}", what)
            for option, meaning in group.options.items():
                yield from self._row(f"  {option}", meaning)
        else:
            yield from self._row(f"{group.name}={group.chosen}", f"{what} {', '.join(group.options)}")
        for key in option_keys(group):
            yield from self._key(key)

    def _key(self, key: Key) -> Iterator[str]:
        if key.default != "{}":  # filled by a group
            yield from self._row(f"{key.name}={key.default}", key.meaning)

    def _title(self, text: str) -> Iterator[str]:
        yield ""
        yield from self._wrapped(text, 0, _BOLD)

    def _row(self, name: str, meaning: str) -> Iterator[str]:
        beside = len(name) < _COLUMN and not 0 < self._columns < _NARROWEST
        key, equals, default = name.partition("=")
        shown = f"  {self._in(_CYAN, key)}{self._in(_DIM, equals + default) if equals else ''}"
        if not meaning:
            yield shown
        elif beside or not self._columns:
            lines = list(self._wrapped(meaning, _COLUMN + 2))
            yield f"{shown}{' ' * max(_COLUMN - len(name), 2)}{lines[0].lstrip()}"
            yield from lines[1:]
        else:
            yield shown
            yield from self._wrapped(meaning, 6)

    def _wrapped(self, text: str, indent: int, style: str = "") -> Iterator[str]:
        width = max(self._columns - 1, indent + 20) if self._columns else len(text) + indent + 1
        space = " " * indent
        wrapped = textwrap.wrap(text, width, initial_indent=space, subsequent_indent=space, break_long_words=False)
        yield from (self._in(style, line) if style else line for line in wrapped)

    def _in(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colours and text else text
