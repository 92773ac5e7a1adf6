"""What users type reaches the job as they meant it; verified through Hydra, to the character."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.helpers.configs import composed as job_config
from utils.build import NAMES_CODE
from utils.command_line import CONFIGS, known_keys, prepare, quoted
from utils.errors import UserError
from utils.other_tools import EXTRACT, TRAIN, hint

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
    resolved = OmegaConf.to_container(job_config("extract", *arguments).job, resolve=True)
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
        ("${output_path}", "${output_path}"),
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


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20) | st.text(alphabet="\\\"'${}\n a", max_size=12))
def test_quoted_text_comes_through_hydra_and_omegaconf(text: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("extract", [f"pred_texts=[{quoted(text)}]", f"texts={quoted(text)}"])
    resolved: Any = OmegaConf.to_container(config.job, resolve=True)
    assert resolved["extractor"]["features"]["pred_texts"] == [resolved["inputs"]["texts"]] == [text]


@pytest.mark.parametrize(
    "argument",
    [
        "batch_size=64",
        "extraction_fps=29.97",
        "extraction_fps=30000/1001",
        "show_pred=true",
        "video_paths=[a.mp4,b.mp4]",
        "+job.extra=1",
        "~pred_texts",
        "hydra.job.name=x",
        "--cfg",
        "--config-name=extract",
        "-m",
        "hydra/job_logging=default",
        "--cfg=job",
    ],
)
def test_nothing_else_is_altered(argument: str, here: Path) -> None:
    assert prepare([argument]) == [argument]


@pytest.mark.parametrize(
    ("job", "argument", "meant"),
    [
        ("extract", "on_extraction=[print, save_numpy]", "extract/on_extraction@on_extraction=[print, save_numpy]"),
        ("convert", "on_extraction=save_npz", "extract/on_extraction@on_extraction=save_npz"),
        ("extract", "preset=ViT-B/32_448", "extract/preset=ViT-B/32_448"),
        ("extract", "~preset", "~extract/preset"),
        ("extract", "preset=null", "~extract/preset"),
        ("extract", "~feature_type=clip", "~shared/feature_type@feature_type=clip"),
        ("extract", "+preset=RN101", "+extract/preset=RN101"),
        ("extract", "feature_type.model_name=a", "feature_type.model_name=a"),
        ("extract", "shared/feature_type=clip", "shared/feature_type@feature_type=clip"),
        ("extract", "shared/feature_type@feature_type=clip", "shared/feature_type@feature_type=clip"),
        ("train", "experiment=[tiny, smoke]", "train/experiment=[tiny, smoke]"),
        ("train", "experiment=tiny,compare_mixer", "train/experiment=tiny,compare_mixer"),
        ("train", "optimizer=adam", "shared/optimizer@optimizer=adam"),
        ("train", "optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("caption_train", "upstream_compat=true", "caption_train/upstream_compat='true'"),
        ("evaluate", "evaluation=[sts,zero_shot]", "evaluate/evaluation@evaluation=[sts,zero_shot]"),
    ],
)
def test_groups_are_given_by_their_short_names(job: str, argument: str, meant: str) -> None:
    assert prepare([f"--config-name={job}", argument]) == [f"--config-name={job}", meant]


def test_what_is_taken_away_is_gone() -> None:
    assert "preset" in job_config("extract", "preset=RN101")
    assert job_config("extract", "preset=RN101").preset.name == "RN101"
    assert job_config("extract", "~preset").preset is None
    assert "feature_type" not in job_config("extract", "~feature_type")


def test_keys_that_experiments_set_reach_the_towers_and_schedules() -> None:
    towers = job_config("train", "experiment=tiny", "embed_dim=64")
    assert (towers.vision.embed_dim, towers.text.embed_dim) == (64, 64)
    warm = job_config("caption_train", "upstream_compat=true", "noam_warmup_steps=7", "noam_warmup_share=null")
    assert (warm.schedule.warmup_steps, warm.schedule.warmup_share) == (7, None)
    assert job_config("train", "schedule=noam", "noam_warmup_share=0.5").schedule.warmup_share == 0.5
    rewarded = job_config("caption_train", "caption_phase=scst", "reward=ref_clips", "reference_scale=2")
    assert rewarded.objective.reward.rewards.ref_clips.reference_scale == 2
    assert job_config("caption_train", "decoding_upstream_compat=true").job.decoding.upstream_compat


def test_the_last_experiment_of_several_decides() -> None:
    config = job_config("caption_train", "caption_experiment=[tiny,clips,smoke]")
    assert config.caption_data._target_.endswith("scene_captions")
    assert (config.caption_data.photos, config.caption_data.count, config.captioner.width) == (None, 24, 16)
    assert list(config.reward.weights) == ["clips"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batchsize=1"], r"batchsize: no such key; did you mean batch_size\? Keys: .*batch_size.*video_paths"),
        (["video_path=a.mp4"], r"video_path: no such key; did you mean video_paths\?"),
        (["zzz=1"], "zzz: no such key; Keys: activation, "),
        (["reward=clips"], r"reward: no such key; .*Keys: .*feature_type, .*on_extraction, .*preset, "),
        (["train/data=scenes"], "train/data: no such key; "),
        (["--config-name=train", "experiment=[tiny,smok]"], r"experiment=smok: no such option; did you mean smoke\?"),
        (["preset=ViT-B/32_44"], r"preset=ViT-B/32_44: no such option; did you mean ViT-B/32_448\?"),
        (["on_extraction=save_numpi"], r"on_extraction=save_numpi: no such option; did you mean save_numpy\?"),
        (
            ["on_extraction=[print,save]"],
            "on_extraction=save: no such option; .*Options: print, save_hdf5, save_npz, save_numpy, save_pickle",
        ),
        (["feature_type=clop"], r"feature_type=clop: no such option; did you mean clip\?"),
        (["--config-name", "extrakt"], r"--config-name extrakt: no such job; did you mean extract\? Jobs: .*extract"),
        (["--config-name=zzz"], "--config-name zzz: no such job; Jobs: .*extract"),
        (["--batch_size", "128"], "--batch_size: write batch_size=VALUE, without dashes"),
        (["model_type_or_path=RN101"], "model_type_or_path: no such key; give model_name=NAME, or the path of"),
        (["image_list=x"], "image_list: no such key; give file_with_image_paths=LIST. Keys: "),
        (["--ve_name", "RN101"], "--ve_name: no such flag; give preset=NAME, of the same names; it brings its weights"),
        (["--skip_miss_img"], "--skip_miss_img: no such flag; leave it out: missing images are counted"),
        (["--config-name=train", "captions_path=x"], "give data=captions_csv data_path=FILE.csv. Keys: "),
        (["--config-name=search", "model_type_or_path=x"], "give model_name=NAME"),
        (["--on_extraction=save_numpy"], "--on_extraction=save_numpy: write on_extraction=VALUE, without dashes"),
    ],
)
def test_mistakes_are_named_with_the_nearest_word(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(arguments)


@pytest.mark.parametrize("job", ["extract", "plan", "train", "search", "evaluate", "caption", "caption_evaluate"])
def test_what_hints_for_users_of_other_tools_name_is_there(job: str) -> None:
    keys, groups = known_keys(job)
    hints = {key: hint(key, job) for table in (EXTRACT, TRAIN) for key in table}
    assert any(hints.values())
    for key, text in hints.items():
        assert not text or key not in keys
        for named in re.findall(r"(\w+)(?:\.\w+)?=(\w*)", text):
            assert named[0] in keys | groups.keys(), text
            if named[0] in groups and named[1].islower():
                prepare(["--config-name", job, f"{named[0]}={named[1]}"])


def test_a_very_long_value_is_no_file_and_no_error() -> None:
    name = "x" * (os.pathconf("/", "PC_NAME_MAX") * 20)
    assert composed(f"video_paths={name}")["video_paths"] == name


NODE = st.recursive(
    st.sampled_from(["a", "1", "null", "'x y'"]) | st.builds("{{{}: x}}".format, st.sampled_from(NAMES_CODE)),
    lambda inner: st.builds("{{a: {}, b: 1}}".format, inner) | st.builds("[a, {}]".format, inner),
    max_leaves=3,
)


@settings(max_examples=40, deadline=None)
@given(NODE, st.sampled_from(["texts", "+texts", "pred_texts", "video_paths", "++output_path", "feature_type.x"]))
@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_no_value_names_code(flags: list[str], key: str, value: str) -> None:
    each = f"{key}={value}" + (",b" if flags else "")
    try:
        prepared = prepare([*flags, each])
    except UserError:
        return
    assert not any(name in "".join(prepared) for name in NAMES_CODE)


@pytest.mark.parametrize(
    "argument", ["texts={_target_: os.getcwd}", "texts=[a, {b: {_target_: os.getcwd}}]", "+texts._target_=os.getcwd"]
)
def test_code_is_refused_by_name(argument: str) -> None:
    for flags in ([], ["-m"]):
        with pytest.raises(UserError, match=r"texts\S*: a value names no code \(`_target_` and the like\)"):
            prepare([*flags, argument])
    with pytest.raises(UserError, match="names no code"):
        prepare(["-m", f"{argument},b"])


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${b} c", "${x", "'${x}'", "\\${x}", "${a:${b}}"])
def test_an_interpolation_in_a_value_is_text(text: str) -> None:
    meant = text.strip("'")
    assert composed(f"pred_texts={text}", f"texts=[{text}, x]")["pred_texts"] == meant
    assert composed(f"output_path={text}/x.jpg")["output_path"] in (f"{meant}/x.jpg", f"{text}/x.jpg")


def test_one_of_several_values_holds_no_interpolation_and_folders_of_runs_do() -> None:
    with pytest.raises(UserError, match="texts: one of several values cannot hold"):
        prepare(["-m", "texts=a,${b}"])
    assert prepare(["-m", "output_path=out/${seed}"]) == ["-m", "output_path=out/${seed}"]
    assert prepare(["-m", "texts=${b}"]) == ["-m", 'texts="\\${b}"']
