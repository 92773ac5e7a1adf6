"""The one way to a model, for all jobs: `feature_type` and `model_name` mean the same everywhere.

A family is a folder `models/<feature_type>/` with a module `family`, found by its import path. Its function
`load(model_name, *, ...) -> FoundModel` names the options that the family understands; others are refused here.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import models
from extraction.extractor import FeatureExtractor
from extraction.options import FeatureOptions, FrameOptions, PictureOptions
from extraction.precision import Precision, resolve, usable_device
from extraction.towers import FoundModel, LoadedModel
from models.clip.positions import Interpolation
from store.provenance import files_sha256
from utils.errors import UserError, check_count, check_flags, check_option, did_you_mean

Load = Callable[..., FoundModel]
WHERE = ("download_root", "offline")  # a family without downloads need not know these


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model, and how it runs. What is None, or as here, is left to the family. `family`: its own options.

    `resolution` is in pixels; `interpolation` is that of the position embedding there.
    """

    feature_type: str = "clip"
    model_name: str | None = None
    device: str = "cuda:0"
    precision: Precision = "auto"
    activation: str | None = None
    resolution: int | None = None
    interpolation: Interpolation = "bicubic"
    download_root: str | Path | None = None
    offline: bool = False
    family: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_option("precision", self.precision, get_args(Precision))
        check_option("interpolation", self.interpolation, get_args(Interpolation))
        check_flags(offline=self.offline)
        if self.resolution is not None:
            check_count("resolution", self.resolution)


def load(choice: ModelChoice) -> LoadedModel:
    """UserError where there is no such family or model, or it cannot run so; what can be told before loading, is."""
    device = usable_device(choice.device)
    precision = resolve(choice.precision, device)
    of_family = family_load(choice.feature_type)
    if choice.model_name is None:
        raise UserError("model_name: expected a name or a path, found nothing")
    found = of_family(str(choice.model_name), **_for_family(choice, of_family))
    settings = {"feature_type": choice.feature_type, "model_name": found.name}
    if found.files:
        settings["weights_sha256"] = files_sha256(found.files)
    return LoadedModel(
        model=found.model,
        feature_type=choice.feature_type,
        name=found.name,
        settings=settings | dict(found.settings),
        weights=found.weights,
        device=device,
        precision=precision,
        licence=found.licence,
    )


def family_load(feature_type: str) -> Load:
    """The function `load` of `models/<feature_type>/family.py`."""
    families = sorted(path.parent.name for place in models.__path__ for path in Path(place).glob("*/family.py"))
    check_option("feature_type", feature_type, families)
    return importlib.import_module(f"models.{feature_type}.family").load


def extractor(feature_type: str, **options: Any) -> FeatureExtractor:
    """An extractor from plain keywords: those of the options' classes, of `ModelChoice` and of the family."""
    own = [name for name in _keywords(family_load(feature_type)) if name not in _names(ModelChoice)]
    known = dict.fromkeys([*_names(FrameOptions, PictureOptions, FeatureOptions, ModelChoice), *own, "batch_size"])
    for key in options:
        if key not in known or key in ("feature_type", "family"):
            raise UserError(f"{key}: no such option; {did_you_mean(key, known)}Options: {', '.join(known)}")

    def of(names: Iterable[str]) -> dict[str, Any]:
        return {key: options[key] for key in names if key in options}

    checked: dict[str, Any] = {
        "frames": FrameOptions(**of(_names(FrameOptions))),
        "pictures": PictureOptions(**of(_names(PictureOptions))),
        "features": FeatureOptions(**of(_names(FeatureOptions))),
        **of(["batch_size"]),
    }
    if "batch_size" in options:
        check_count("batch_size", options["batch_size"])
    choice = ModelChoice(feature_type=feature_type, **of(_names(ModelChoice)), family=of(own))
    return FeatureExtractor(load(choice), **checked)


def _for_family(choice: ModelChoice, of_family: Load) -> dict[str, Any]:
    """Its arguments: what was asked for. UserError for what it does not understand, which would else do nothing."""
    mine, known = ("feature_type", "model_name", "device", "precision", "family"), _keywords(of_family)
    values = {each.name: getattr(choice, each.name) for each in fields(choice) if each.name not in mine}
    asked = {key: value for key, value in values.items() if value != getattr(ModelChoice, key)} | dict(choice.family)
    for key, value in asked.items():
        if key not in known and key not in WHERE:
            raise UserError(f"{key}={value}: feature_type={choice.feature_type} has no such option")
    return {key: value for key, value in asked.items() if key in known}


def _keywords(function: Load) -> list[str]:
    return [name for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY]


def _names(*kinds: Any) -> list[str]:
    return [each.name for kind in kinds for each in fields(kind)]
