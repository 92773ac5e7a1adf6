"""Saved items: the files of all forms of a run, written whole, and recognised when they are already there."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from store.files import encode, remove
from store.forms import Form, Gathers, NewFile
from store.gathering import gather
from store.ledger import Ledger
from store.locks import Locks
from store.parts import PARTS, Parts, part_path, remove_forgotten, remove_part
from store.places import as_text, at_work_there, check_place, difference, other_settings
from store.provenance import software
from store.reading import intact
from store.record import (
    META,
    PREDICTIONS,
    Record,
    item_source,
    read_record,
    record_of,
    setting_changes,
    write_record,
)
from store.usable import check_usable
from store.writing import write_file
from utils.errors import MediaError, UserError, check_flags
from utils.part_files import remove_leftovers
from utils.types import Features, Item, Show

logger = logging.getLogger(__name__)


class Store:
    """What a run saves below `output_path`, in all of its forms at once.

    `<folder>/<item><ending>` are the files of the forms; `<item>_predictions.json` lies beside them where there are
    any; `<item>_meta.json` lists them all, with settings and source. It is written last: where it is, the item is
    complete. Forms saved earlier stay valid as long as settings and source are the same.
    """

    def __init__(
        self, output_path: Path | str, forms: Iterable[Form], *, shared: bool = True, overwrite: bool = False
    ) -> None:
        """`shared`: other processes may save here, too. `overwrite`: results of other settings are done again."""
        check_flags(overwrite=overwrite)
        self.forms = tuple(forms)
        self._gathering = [form for form in self.forms if isinstance(form, Gathers)]
        self.path, self._shared, self._overwrite = Path(output_path), shared, overwrite
        self._locks = Locks(self.path)
        self._software = {"software": software()} if self.forms else {}
        self._folders: set[str] = set()
        self._left: dict[str, set[Path]] = {}  # parts in a folder when it was first looked at
        self._said: set[str] = set()

    @contextmanager
    def session(self, ledger: Ledger) -> Iterator[None]:
        """The time of a run. At its end, also after Ctrl-C, `save_hdf5` puts its items into one file a folder."""
        with self._locks:
            try:
                yield
            except BaseException as error:
                if isinstance(error, MediaError) or not isinstance(error, UserError):  # those are of the disk
                    try:
                        self._finish(ledger)
                    except UserError as problem:
                        logger.warning("%s", problem)
                raise
            self._finish(ledger)

    def check_place(self, folder: str, kind: str, settings: dict[str, Any]) -> None:
        """UserError where the folder holds results of this kind ("video") and other settings, unless `overwrite`."""
        if self.forms and not self._overwrite:
            check_place(self.path, folder, kind, settings, self._gathering)

    def settle(self, folder: str, kind: str, settings: dict[str, Any]) -> None:
        """The folder is for results of these settings until the session ends: `check_place`, and other processes."""
        if not self.forms:
            return
        if self._shared and (others := self._locks.share(f"{folder} {kind}", as_text(settings))):
            raise at_work_there(self.path / folder, *others, settings)
        self.check_place(folder, kind, settings)

    def claim(self, item: Item, folder: str) -> bool:
        """False while another process works on it. Look again whether it is `done`: it may have been just now."""
        return not self.forms or self._locks.take(f"{folder}/{item.name}")

    def release(self, item: Item, folder: str) -> None:
        self._locks.release(f"{folder}/{item.name}")

    def holder(self, item: Item, folder: str) -> str:
        return self._locks.holder(f"{folder}/{item.name}")

    def parts(self, folder: str, settings: dict[str, Any]) -> Parts | None:
        """What there is of long items before they are saved; None where nothing is saved."""
        return Parts(self.path / folder, settings | self._software) if self.forms else None

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        """Nothing left to do: these settings (plain JSON), the same source, and the files of all forms intact.

        UserError where it is there with other settings, and `overwrite` is not given.
        """
        self._folders.add(folder)
        is_done = self._is_done(item, folder, settings)
        if folder not in self._left:
            self._left[folder] = set((self.path / folder / PARTS).glob("*"))
        part = part_path(self.path / folder, item.name)
        if is_done and part in self._left[folder] and self.claim(item, folder):  # killed just after it had saved
            remove_part(part)
            self.release(item, folder)
        return is_done

    def _is_done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        meta = self._path(folder, item, META)
        record = read_record(meta)
        recorded = {facts.get("form") for facts in record.files.values()} if record else set()
        forms = {form.name for form in self.forms}
        for form in self._gathering:
            if form.name not in recorded:
                forms.remove(form.name)
                archive = self._archive(folder, form)
                gathered = form.record(archive, item.name)
                if gathered is None or not self._up_to_date(gathered, item, folder, settings):
                    return False
                if not form.intact(archive, gathered):
                    return self._say(f"{item.path}: damaged in {archive}, done again")
        if not forms:
            return bool(self.forms)
        if (
            record is None
            or record.item != item.name
            or not self._up_to_date(record, item, folder, settings)
            or not forms <= recorded
        ):
            return False
        wanted = {
            name: facts
            for name, facts in record.files.items()
            if facts.get("form") in forms or name.endswith(PREDICTIONS)
        }
        damaged = [name for name, facts in wanted.items() if not intact(meta.with_name(name), facts)]
        if damaged:
            return self._say(f"{item.path}: missing or damaged, done again: {', '.join(damaged)}")
        return True

    def save(self, features: Features) -> None:
        """Raises MediaError where there is nothing worth saving, UserError where it cannot be written."""
        if not self.forms:
            return
        check_usable(features)
        item, folder = features.item, features.folder
        self._folders.add(folder)
        meta = self._path(folder, item, META)
        record = record_of(replace(features, provenance=self._software | features.provenance), {})
        new: dict[str, tuple[str | None, NewFile]] = {}
        for form in self.forms:
            for file in form.write(features):
                name = self._path(folder, item, file.ending).name
                if name in new:
                    raise UserError(f"{new[name][0]} and {form.name} both save {name}: choose one of them")
                new[name] = form.name, file
        if features.predictions:
            new[self._path(folder, item, PREDICTIONS).name] = None, _predictions(features)
        _refuse_shared_names(meta, new)
        old = read_record(meta)
        archives = [form.record(self._archive(folder, form), item.name) for form in self._gathering]
        for each in (old, *archives):
            if each is not None:
                _refuse_other_input(meta, each, record)
        files = _keep_or_clear(meta, old, record, self.forms)
        for name, (form_name, file) in new.items():
            of_form = {"form": form_name} if form_name else {}
            files[name] = of_form | write_file(meta.with_name(name), file, features)
        write_record(meta, replace(record, files=files))

    def saved_bytes(self, item: Item, folder: str) -> list[int]:
        """Sizes of the files that a saved item has, its meta file last; what is gathered later needs twice its room."""
        meta = self._path(folder, item, META)
        record = read_record(meta)
        if record is None:
            return []
        gathered = {form.name for form in self._gathering}
        sizes = [(facts["bytes"], facts.get("form") in gathered) for facts in record.files.values()]
        return [*(size for size, again in sizes for _ in range(1 + again)), meta.stat().st_size]

    def _finish(self, ledger: Ledger) -> None:
        for folder in sorted(self._folders):
            for form in self._gathering:
                for problem in gather(form, self.path, folder, self._locks, shared=self._shared):
                    ledger.add(Item(self._archive(folder, form), folder), "failed", reason=str(problem))
            home = self.path / folder
            remove_leftovers(home, below=True)
            remove_leftovers(home.parent)  # those of the folder's one file
            remove_forgotten(self.path / folder, f"{folder}/{{}}", self._locks)

    def _archive(self, folder: str, form: Gathers) -> Path:
        return self.path / f"{folder}{form.gathered_ending}"

    def _path(self, folder: str, item: Item, ending: str) -> Path:
        """Names come from input paths; whatever they hold, results stay below `output_path`."""
        relative = Path(folder) / f"{item.name}{ending}"
        if relative.is_absolute() or ".." in relative.parts:
            raise MediaError(f"{item.path}: its results would lie outside {self.path}: {relative}")
        return self.path / relative

    def _up_to_date(self, record: Record, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        if not self._overwrite and (changes := difference(record.settings, settings)):
            raise other_settings(self.path / folder, changes)
        # Settings recorded beyond today's (predictions that nobody asks for now) do no harm.
        recorded = {key: value for key, value in record.settings.items() if key in settings}
        if recorded != settings:
            # Once for each kind of change: ten thousand items with the same one would hide everything else.
            changes = setting_changes(recorded, settings)
            again = "done again, as is every other item with this difference"
            return self._say(f"{item.path}: saved under other settings ({changes}): {again}", about=changes)
        try:
            if record.source.same_as(item_source(item)):
                return True
        except MediaError:
            return False  # whoever reads it next says so
        return self._say(f"{item.path}: has changed since its results were saved: done again")

    def _say(self, line: str, *, about: str | None = None) -> Literal[False]:
        """Each thing once: an item is looked at before and after it is claimed."""
        if (about or line) not in self._said:
            self._said.add(about or line)
            logger.warning("%s", line)
        return False


def forms_and_shows(on_extraction: Mapping[str, Form | Show] | Sequence[Form | Show]) -> tuple[list[Form], list[Show]]:
    """What is to be saved, and what only shown. UserError for anything else, or nothing."""
    given = list(on_extraction.values() if isinstance(on_extraction, Mapping) else on_extraction)
    for each in given:
        if not isinstance(each, Form | Show):
            raise UserError(
                f"on_extraction: {type(each).__name__} neither saves (name, write, read: `store.forms.Form`) nor shows "
                "(`utils.types.Show`)"
            )
    if not given:
        raise UserError(
            "on_extraction=[] (captions: on_caption=[]): expected print or another of this group, or a list of them"
        )
    return [each for each in given if isinstance(each, Form)], [each for each in given if isinstance(each, Show)]


def _predictions(features: Features) -> NewFile:
    try:
        text = encode(features.predictions, indent=1) + b"\n"
    except ValueError as error:
        raise MediaError(f"{features.item.path}: a prediction is nan or infinite: not saved") from error
    return NewFile(PREDICTIONS, lambda file: file.write(text))


def _refuse_other_input(meta: Path, old: Record, new: Record) -> None:
    """`dog.mp4` is no older version of `dog.jpg`."""
    if not new.source.texts_sha256 and old.source.path and Path(old.source.path).name != Path(new.source.path).name:
        raise MediaError(
            f"{new.source.path}: {meta.parent} already holds results of {old.source.path} under the name "
            f"{new.item!r}: rename one of the two, or choose another output_path"
        )


def _refuse_shared_names(meta: Path, names: Iterable[str]) -> None:
    """`dog` + `source_fps` and `dog_source` + `fps` are the same file name: refused, never overwritten.

    Raises MediaError if one of `names` is on the record of another item.
    """
    pieces = [name.split("_") for name in names]
    items = {"_".join(each[:count]) for each in pieces for count in range(1, len(each))}
    for item in items - {meta.name.removesuffix(META)}:
        record = read_record(meta.with_name(item + META))
        taken = sorted(set(names) & record.files.keys()) if record is not None else []
        if record is not None and taken:
            path = meta.with_name(taken[0])
            raise MediaError(f"{path}: already holds results of the item {record.item!r}: rename one of the two inputs")


def _keep_or_clear(meta: Path, old: Record | None, new: Record, forms: Iterable[Form]) -> dict[str, dict[str, Any]]:
    """The recorded files of other forms, if they stay valid; else the old results are taken away.

    The meta file goes first: killed half-way, new arrays must not lie beside a record of the old settings.
    """
    if old is not None and old.settings == new.settings and old.source.same_as(new.source):
        mine = {None, *(form.name for form in forms)}  # predictions are of no form
        return {name: facts for name, facts in old.files.items() if facts.get("form") not in mine}
    if meta.exists():
        remove(meta)
    start = meta.name.removesuffix(META)
    for name in old.files if old is not None else ():
        if name.startswith(start) and Path(name).name == name:
            remove(meta.with_name(name))
    return {}
