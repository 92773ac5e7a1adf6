"""Objects from configs: values stay as they are, mistakes name their place."""

from fractions import Fraction
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.helpers.configs import composed
from utils.build import NAMES_CODE, build
from utils.command_line import CONFIGS, known_keys, prepare
from utils.errors import UserError

JOBS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def test_what_is_named_is_called_and_the_rest_is_left_alone() -> None:
    node = {
        "half": {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2},
        "later": {"_target_": "fractions.Fraction", "_partial_": True, "denominator": 3},
        "data": ["${x}", {"name": "\\${oc.env:HOME}", 1: None}, 2.5],
        "inside": [{"_target_": "builtins.dict", "part": {"_target_": "fractions.Fraction", "numerator": 4}}],
    }
    built = build(node)
    assert (built["half"], built["later"](2)) == (Fraction(1, 2), Fraction(2, 3))
    assert built["data"] == node["data"]
    assert built["inside"] == [{"part": Fraction(4)}]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "media.limits.Limits", "rows": 1},
            "job.a.0: media.limits.Limits: got an unexpected keyword .*rows",
        ),
        ({"_target_": "media.limits.Limit"}, "_target_: media.limits.Limit: .*; expected package.module.name"),
        ({"_target_": "nowhere.at.all"}, "_target_: nowhere.at.all: No module named 'nowhere'"),
        ({"_target_": "Limits"}, "_target_: Limits: .*; expected package.module.name"),
    ],
)
def test_mistakes_name_their_place(node: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build({"a": [node]})


@pytest.mark.parametrize("job", JOBS)
def test_no_key_of_any_job_is_more_than_data(job: str) -> None:
    """Each given a value that would be looked up, all in one command: the job's config holds it as it was given."""
    config = composed(job)
    keys, groups = known_keys(job)
    defaults: Any = OmegaConf.to_container(config, resolve=False)
    plain = [key for key in sorted(keys - groups.keys()) if not isinstance(defaults[key], dict | list)]
    assert plain
    text = "a ${oc.env:HOME} ${x} {b}"
    given = composed(job, *(f"{key}={text}" for key in plain))
    assert {given[key] for key in plain} == {text}
    for key, name in zip((plain[0], plain[-1], next(iter(groups), plain[0])), NAMES_CODE, strict=False):
        for value in (f"{key}={{{name}: x}}", f"{key}.{name}=x", f"+{key}=[[{{{name}: x}}]]"):
            with pytest.raises(UserError):
                prepare([f"--config-name={job}", value])
