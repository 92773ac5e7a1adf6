"""What users type reaches the job as they meant it; verified through Hydra, to the character."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from utils.command_line import CONFIGS, prepare, quoted
from utils.errors import UserError

NAMES = [
    "plain.mp4",
    "with space.mp4",
    " leading space.mp4",
    "trailing space ",
    "it's.mp4",
    'say "hi".mp4',
    'it\'s "both".mp4',
    "ünïcode-日本語-😀.mp4",
    "key=value.mp4",
    "key=value,b=2.mp4",
    "100% %d %03d.mp4",
    "percent%20encoded.mp4",
    "-leading-dash.mp4",
    "--double.mp4",
    "a,b.mp4",
    "[brackets]{braces}(x).mp4",
    "back\\slash.mp4",
    "back\\'quote.mp4",
    "ends with backslash\\",
    "${x}.mp4",
    "\\${x}.mp4",
    "${oc.env:HOME}.mp4",
    "$HOME 'x' \\back.mp4",
    "12:30.mp4",
    "hash#question?.mp4",
    "semi;colon & amp.mp4",
    "star*.mp4",
    "a: b.mp4",
    "~tilde.mp4",
    "null",
    "true",
    "007",
    "1e3",
    "new\nline.mp4",
]
# Commands of video_features' CLIP page, with what they have always meant.
TWO = ["./sample/v_ZNVhz7ctTq0.mp4", "./sample/v_GGSY1Qvo990.mp4"]
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    (
        'feature_type="clip" model_name="ViT-B/32" extraction_fps=1 video_paths="[./sample/v_GGSY1Qvo990.mp4]" '
        'on_extraction="print"',
        {"model_name": "ViT-B/32", "extraction_fps": 1, "video_paths": TWO[1:]},
    ),
    (
        'feature_type="clip" model_name="ViT-B/32" device="cuda:0" '
        'video_paths="[./sample/v_ZNVhz7ctTq0.mp4, ./sample/v_GGSY1Qvo990.mp4]"',
        {"device": "cuda:0", "video_paths": TWO},
    ),
    (
        'feature_type="clip" model_name="ViT-B/32" device="cuda:0" on_extraction=save_numpy '
        "file_with_video_paths=./sample/sample_video_paths.txt",
        {"file_with_video_paths": "./sample/sample_video_paths.txt", "video_paths": None},
    ),
    (
        'feature_type="clip" model_name="ViT-B/32" device="cuda:0" batch_size=128 '
        'video_paths="[./sample/v_ZNVhz7ctTq0.mp4, ./sample/v_GGSY1Qvo990.mp4]"',
        {"batch_size": 128, "video_paths": TWO},
    ),
    (
        'feature_type="clip" model_name="ViT-B/32" device="cuda:0" extraction_fps=1 show_pred="true" '
        "pred_texts=\"['a dog smiles', 'a woman is lifting']\" "
        'video_paths="[./sample/v_ZNVhz7ctTq0.mp4, ./sample/v_GGSY1Qvo990.mp4]"',
        {"show_pred": True, "pred_texts": ["a dog smiles", "a woman is lifting"], "video_paths": TWO},
    ),
]


def composed(*arguments: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("extract", overrides=prepare(arguments))
    resolved = OmegaConf.to_container(config.job, resolve=True)
    assert isinstance(resolved, dict)
    extractor: Any = resolved["extractor"]
    parts = [extractor[name] for name in ("frames", "pictures", "features")] + [extractor["model"]["choice"]]
    return {key: value for part in (*parts, extractor, resolved["inputs"], resolved) for key, value in part.items()}  # pyright: ignore


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "meant"), COMMANDS)
def test_commands_of_video_features_mean_what_they_meant(command: str, meant: dict[str, Any]) -> None:
    found = composed(*shlex.split(command))
    assert {key: found[key] for key in meant} == meant


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_file_is_taken_as_it_is(name: str, here: Path) -> None:
    (here / name).touch()
    assert composed(f"video_paths={name}")["video_paths"] == name
    assert composed(f"file_with_video_paths={name}")["file_with_video_paths"] == name
    assert composed(f"model_name={here / name}")["model_name"] == str(here / name)


@pytest.mark.parametrize(
    ("style", "name"),
    [
        (style, name)
        for style in ("yaml", "json")
        for name in NAMES
        if style == "json" or "\n" not in name  # YAML folds lines inside single quotes
    ],
)
def test_quoted_names_in_a_list_are_taken_as_they_are(name: str, style: str, here: Path) -> None:
    (here / name).touch()
    text = json.dumps(name, ensure_ascii=False) if style == "json" else "'" + name.replace("'", "''") + "'"
    assert composed(f"video_paths=[{text}, plain.mp4]")["video_paths"] == [name, "plain.mp4"]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not set(name) & set(",[]{}#\n&${") and name == name.strip() and name[0] != '"']
)
def test_most_names_need_no_quotes_in_a_list(name: str, here: Path) -> None:
    (here / name).touch()
    assert composed(f"video_paths=[{name}, plain.mp4]")["video_paths"] == [name, "plain.mp4"]


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("null", None),
        ("[a.mp4, b c.mp4]", ["a.mp4", "b c.mp4"]),
        ("[a=b.mp4]", ["a=b.mp4"]),
        ("videos/*.mp4", "videos/*.mp4"),
        ("'quoted.mp4'", "quoted.mp4"),
        ("not there = x.mp4", "not there = x.mp4"),
        ("${output_path}", "./output"),
        ("007", "007"),
        ("[1, 1e3, a.mp4]", ["1", "1e3", "a.mp4"]),
    ],
)
def test_what_names_no_file_is_read_by_hydra_then_as_yaml(value: str, meant: Any, here: Path) -> None:
    assert composed(f"video_paths={value}")["video_paths"] == meant


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("['it''s raining', \"a dog's life\"]", ["it's raining", "a dog's life"]),
        ("[[a, b], 'x = y' z]", "[[a, b], 'x = y' z]"),
        ("['100 % = all', 'a, b']", ["100 % = all", "a, b"]),
        ("a dog = a friend", "a dog = a friend"),
        ("a photo of ", "a photo of "),
        (" null ", None),
        ("[yes = no, 007 = bond]", ["yes = no", "007 = bond"]),
    ],
)
def test_texts(value: str, meant: Any) -> None:
    assert composed(f"pred_texts={value}")["pred_texts"] == meant


def test_a_list_that_is_not_of_texts() -> None:
    with pytest.raises(UserError, match=r"pred_texts: expected a list of texts, found .*put quotes around each"):
        prepare(["pred_texts=[[a = b], c]"])


def test_commas_make_a_sweep_only_where_several_runs_are_asked_for() -> None:
    assert composed("pred_texts=a cat, on a sofa")["pred_texts"] == "a cat, on a sofa"
    assert prepare(["-m", "batch_size=1,2"]) == ["-m", "batch_size=1,2"]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20) | st.text(alphabet="\\\"'${}\n a", max_size=12))
def test_quoted_text_comes_through_hydra_and_omegaconf(text: str) -> None:
    assert composed(f"pred_texts=[{quoted(text)}]", f"tmp_path={quoted(text)}")["pred_texts"] == [text]


@pytest.mark.parametrize(
    "argument",
    [
        "batch_size=64",
        "extraction_fps=29.97",
        "extraction_fps=30000/1001",
        "show_pred=true",
        "video_paths=[a.mp4,b.mp4]",
        "on_extraction=[print,save_numpy]",
        "feature_type=clip",
        "+job.extra=1",
        "~pred_texts",
        "hydra.job.name=x",
        "--cfg",
        "--config-name=extract",
        "-m",
        "output_path=${oc.env:HOME}/x",
    ],
)
def test_nothing_else_is_altered(argument: str, here: Path) -> None:
    assert prepare([argument]) == [argument]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batchsize=1"], r"batchsize: no such key; did you mean batch_size\? Keys: .*batch_size.*video_paths"),
        (["video_path=a.mp4"], r"video_path: no such key; did you mean video_paths\?"),
        (["zzz=1"], "zzz: no such key; Keys: activation, "),
        (["on_extraction=save_numpi"], r"on_extraction=save_numpi: no such option; did you mean save_numpy\?"),
        (
            ["on_extraction=[print,save]"],
            "on_extraction=save: no such option; .*Options: print, save_hdf5, save_npz, save_numpy, save_pickle",
        ),
        (["feature_type=clop"], r"feature_type=clop: no such option; did you mean clip\?"),
        (["--config-name", "extrakt"], r"--config-name extrakt: no such job; did you mean extract\? Jobs: .*extract"),
        (["--config-name=zzz"], "--config-name zzz: no such job; Jobs: .*extract"),
        (["--batch_size", "128"], "--batch_size: write batch_size=VALUE, without dashes"),
        (["--on_extraction=save_numpy"], "--on_extraction=save_numpy: write on_extraction=VALUE, without dashes"),
    ],
)
def test_mistakes_are_named_with_the_nearest_word(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(arguments)


def test_a_very_long_value_is_no_file_and_no_error() -> None:
    name = "x" * (os.pathconf("/", "PC_NAME_MAX") * 20)
    assert composed(f"video_paths={name}")["video_paths"] == name
