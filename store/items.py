"""Saved items: the files of all forms of a run, written whole, and recognised when they are already there."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from store.files import encode
from store.forms import Form, Gathers, NewFile
from store.gathering import gather
from store.ledger import Ledger
from store.locks import Locks
from store.parts import PARTS, Parts, part_path, remove_forgotten, remove_part
from store.places import LOOKED_AT, as_text, at_work_there, check_place, difference, other_settings
from store.provenance import software
from store.reading import intact
from store.record import (
    META,
    PREDICTIONS,
    Record,
    item_source,
    record_of,
    setting_changes,
)
from store.records import Records, keep_or_clear, refuse_other_input, refuse_shared_names
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
        self,
        output_path: Path | str,
        forms: Iterable[Form],
        *,
        shared: bool = True,
        overwrite: bool = False,
        flat: bool = False,
    ) -> None:
        """`shared`: other processes may save here, too. `overwrite`: results of other settings are done again.

        `flat`: results lie in `output_path` itself, with one `meta.jsonl` (`store.journal`) for all of them.
        """
        check_flags(overwrite=overwrite, flat=flat)
        self.forms = tuple(forms)
        self._gathering = [form for form in self.forms if isinstance(form, Gathers)]
        self.path, self._shared, self._overwrite = Path(output_path), shared, overwrite
        if flat and self._gathering:
            raise UserError(f"flat=true: {self._gathering[0].name} puts all items into one file: give one of the two")
        self._records = Records(self.path, flat=flat)
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
            archives = (form.records(self._archive(folder, form), most=LOOKED_AT) for form in self._gathering)
            found = itertools.chain(*archives, self._records.saved(folder))
            check_place(self._home(folder), found, kind, settings)

    def settle(self, folder: str, kind: str, settings: dict[str, Any]) -> None:
        """The folder is for results of these settings until the session ends: `check_place`, and other processes."""
        if not self.forms:
            return
        place = self._records.place(folder)
        if self._shared and (others := self._locks.share(f"{place} {kind}", as_text(settings))):
            raise at_work_there(self._home(folder), *others, settings)
        self.check_place(folder, kind, settings)

    def claim(self, item: Item, folder: str) -> bool:
        """False while another process works on it. Look again whether it is `done`: it may have been just now."""
        return not self.forms or self._locks.take(self._lock_name(item, folder))

    def release(self, item: Item, folder: str) -> None:
        self._locks.release(self._lock_name(item, folder))

    def holder(self, item: Item, folder: str) -> str:
        return self._locks.holder(self._lock_name(item, folder))

    def _lock_name(self, item: Item, folder: str) -> str:
        return f"{self._records.place(folder)}/{item.name}"

    def parts(self, folder: str, settings: dict[str, Any]) -> Parts | None:
        """What there is of long items before they are saved; None where nothing is saved."""
        return Parts(self._home(folder), settings | self._software) if self.forms else None

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        """Nothing left to do: these settings (plain JSON), the same source, and the files of all forms intact.

        UserError where it is there with other settings, and `overwrite` is not given.
        """
        self._folders.add(folder)
        is_done = self._is_done(item, folder, settings)
        if folder not in self._left:
            self._left[folder] = set((self._home(folder) / PARTS).glob("*"))
        part = part_path(self._home(folder), item.name)
        if is_done and part in self._left[folder] and self.claim(item, folder):  # killed just after it had saved
            remove_part(part)
            self.release(item, folder)
        return is_done

    def _is_done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        meta = self._path(folder, item, META)
        record = self._records.read(meta)
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
        refuse_shared_names(self._records, meta, new)
        old = self._records.read(meta)
        archives = [form.record(self._archive(folder, form), item.name) for form in self._gathering]
        for each in (old, *archives):
            if each is not None:
                refuse_other_input(meta, each, record)
        files = keep_or_clear(self._records, meta, old, record, self.forms)
        for name, (form_name, file) in new.items():
            of_form = {"form": form_name} if form_name else {}
            files[name] = of_form | write_file(meta.with_name(name), file, features)
        self._records.write(meta, folder, replace(record, files=files))

    def saved_bytes(self, item: Item, folder: str) -> list[int]:
        """Sizes of the files that a saved item has, its meta file last; what is gathered later needs twice its room."""
        meta = self._path(folder, item, META)
        record = self._records.read(meta)
        if record is None:
            return []
        gathered = {form.name for form in self._gathering}
        sizes = [(facts["bytes"], facts.get("form") in gathered) for facts in record.files.values()]
        return [*(size for size, again in sizes for _ in range(1 + again)), self._records.num_bytes(meta)]

    def _finish(self, ledger: Ledger) -> None:
        for folder in sorted(self._folders):
            for form in self._gathering:
                for problem in gather(form, self.path, folder, self._locks, shared=self._shared):
                    ledger.add(Item(self._archive(folder, form), folder), "failed", reason=str(problem))
            home = self._home(folder)
            remove_leftovers(home, below=True)
            if home != self.path:
                remove_leftovers(home.parent)  # those of the folder's one file
            remove_forgotten(home, f"{self._records.place(folder)}/{{}}", self._locks)
        self._records.end()

    def _home(self, folder: str) -> Path:
        return self.path / self._records.place(folder)

    def _archive(self, folder: str, form: Gathers) -> Path:
        return self.path / f"{folder}{form.gathered_ending}"

    def _path(self, folder: str, item: Item, ending: str) -> Path:
        """Names come from input paths; whatever they hold, results stay below `output_path`."""
        relative = Path(self._records.place(folder)) / f"{item.name}{ending}"
        if relative.is_absolute() or ".." in relative.parts:
            raise MediaError(f"{item.path}: its results would lie outside {self.path}: {relative}")
        return self.path / relative

    def _up_to_date(self, record: Record, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        if not self._overwrite and (changes := difference(record.settings, settings)):
            raise other_settings(self._home(folder), changes)
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
