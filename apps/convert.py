"""The job behind `--config-name convert`: saved features from one form into another, without a model."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from store.forms import Form
from store.items import Store, forms_and_shows
from store.ledger import Ledger
from store.reading import find_saved, read_saved
from store.show import show_all
from utils import command_line
from utils.build import build
from utils.errors import MediaError, UserError, given_path
from utils.progress_bar import progress_bar
from utils.types import Features, Item, Show


def every_form(group: str) -> list[Form]:
    """The forms among all options of a config group, so that what can be saved can be read."""
    files = sorted((command_line.CONFIGS / group).glob("*.yaml"))
    nodes = [node for file in files for node in yaml.safe_load(file.read_text(encoding="utf-8")).values()]
    return forms_and_shows(build(nodes))[0]


def convert(
    *,
    input_path: str,
    forms: Sequence[Form],
    on_extraction: dict[str, Form | Show] | list[Form | Show],
    output_path: str | Path,
    overwrite: bool = False,
) -> int:
    """Save or show every item below `input_path` that is in one of `forms`; the exit status, 0 only if nothing failed.

    Settings and sources go with the features: an extraction into `output_path` later finds its items done. UserError
    at an item that is there with other settings, unless `overwrite`.
    """
    saving, shows = forms_and_shows(on_extraction)
    found = find_saved(given_path("input_path", input_path, "a folder with saved features"), forms)
    ledger = Ledger(Path(output_path) / "ledger.jsonl" if saving else None, settings={"converted": str(input_path)})
    store = Store(output_path, saving, shared=False, overwrite=overwrite)
    try:
        with store.session(ledger):
            for path in progress_bar(found, "convert", unit=" files"):
                for features in read_saved(path, forms):
                    if isinstance(features, MediaError):
                        ledger.add(Item(path, path.name), "failed", reason=str(features))
                    else:
                        _hand_on(features, store, shows, ledger)
    finally:
        ledger.report()
    return ledger.exit_status


def _hand_on(features: Features, store: Store, shows: list[Show], ledger: Ledger) -> None:
    try:
        if not shows and store.done(features.item, features.folder, features.settings):
            ledger.add(features.item, "skipped", reason="done before")
            return
        store.save(features)
        show_all(shows, features, saving=bool(store.forms))
    except Exception as error:  # a forged record may hold anything
        if isinstance(error, UserError) and not isinstance(error, MediaError):
            raise
        ledger.add(features.item, "failed", reason=str(error))
        return
    rows = max((len(array) for array in features.arrays.values() if array.ndim), default=0)
    ledger.add(features.item, "done", rows=rows)
