"""Every form that can be chosen, found in configs/, and a store to try it with."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.utils import instantiate

from store.files import plain
from store.forms import Form, Gathers
from store.items import Store
from store.ledger import Ledger
from store.reading import find_saved, read_saved
from tests.helpers.shared_data import ROOT
from utils.errors import MediaError
from utils.types import Features, Item, Show


def options() -> dict[str, Form | Show]:
    """All of `on_extraction` by the names of their files, so that a new file cannot be missed."""
    files = sorted((ROOT / "configs").rglob("on_extraction/*.yaml"))
    found = {name: each for file in files for name, each in instantiate(yaml.safe_load(file.read_text())).items()}
    assert list(found) == [file.stem for file in files]
    return found


def saving_forms() -> dict[str, Form]:
    return {name: each for name, each in options().items() if isinstance(each, Form)}


class Folder:
    """A folder of saved features; a new store at every step, as in a new run. `gathered`: each save is a whole run."""

    def __init__(self, path: Path, *forms: Form, gathered: bool = False) -> None:
        self.path, self.forms, self._gathered = path, forms, gathered

    def store(self, *, overwrite: bool = False) -> Store:
        return Store(self.path, self.forms, overwrite=overwrite)

    def save(self, *features: Features) -> None:
        store = self.store()
        for each in features:
            store.save(each)
        if self._gathered:
            self.end_run(store)

    def end_run(self, store: Store | None = None) -> Ledger:
        ledger = Ledger(None, settings={})
        if store is None:
            store = self.store()
            store.done(Item(Path("x"), "x"), "clip/ViT-B_32", {})  # what a run does first
        with store.session(ledger):
            pass
        return ledger

    def done(self, features: Features, *, overwrite: bool = False) -> bool:
        return self.store(overwrite=overwrite).done(features.item, features.folder, plain(features.settings))

    def read(self, forms: Sequence[Form] | None = None) -> list[Features | MediaError]:
        forms = list(saving_forms().values()) if forms is None else forms
        return [each for path in find_saved(self.path, forms) for each in read_saved(path, forms)]

    def arrays(self) -> dict[str, dict]:
        """Of every item that can be read."""
        return {each.item.name: each.arrays for each in self.read() if isinstance(each, Features)}


def run_ends(form: Form) -> list[bool]:
    """Whether items are looked at before the run ends, and after."""
    return [False, True] if isinstance(form, Gathers) else [False]
