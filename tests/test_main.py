"""`python main.py` as users run it, and every option of every config group."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from models.load import load
from tests.helpers.configs import composed
from tests.helpers.shared_data import PARITY, ROOT, SHARED
from tests.helpers.tiny_open_clip import write_open_clip_model
from tests.helpers.tiny_transformers import write_transformers_model
from utils.command_line import CONFIGS, known_keys, option_names, prepare

ROOMS = ("apps", "evaluation", "extraction", "media", "models", "pairs", "store", "training")

VIDEO = ROOT / "sample" / "v_GGSY1Qvo990.mp4"
JOBS = sorted((path.stem for path in CONFIGS.glob("*.yaml")), key=lambda job: (job != "extract", job))
# Folder of configs/, as Hydra names it with its place in the config -> key that users type, jobs that have it.
GROUPS = {group: (key, job) for job in reversed(JOBS) for key, group in known_keys(job)[1].items()}
OF_MODELS = ("extract", "evaluate", "caption", "caption_evaluate")  # jobs that use a model
BUILT = ("@feature_type", "@on_extraction")
LISTS = ("on_extraction", "evaluation", "evaluators", "on_caption", "caption_metric")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Run:
    """Runs main.py in an empty folder; no run may print a traceback."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "main.py"), f"model_name={tiny}", "device=cpu", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done

    return run


def test_print(run: Run, tmp_path: Path) -> None:
    done = run(f"video_paths={VIDEO}", "extraction_total=2", "show_pred=true", "pred_texts=[a cat, a dog]")
    assert done.returncode == 0, done.stderr
    tables, _, arrays = done.stdout.partition("clip\n")
    assert tables.count("  Logits | Prob. | Label \n") == 2
    keys = [line for line in ("clip\n" + arrays).splitlines() if line.isidentifier()]
    assert keys == ["clip", "fps", "timestamps_ms", "source_timestamps_ms"]
    assert arrays.count("max: ") == arrays.count("; mean: ") == arrays.count("; min: ") == 4
    assert done.stderr.rstrip().endswith("1 done")
    assert list(tmp_path.iterdir()) == []  # no outputs/, no .hydra


def test_a_sweep_runs_all_and_ends_with_the_worst_status(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    (tmp_path / "${x}.jpg").write_bytes((ROOT / "sample" / "cat.jpg").read_bytes())
    values = ("on_extraction=save_numpy,save_pickle", "output_path=out/${hydra:job.num}")
    done = run("image_paths=['${x}.jpg', broken.jpg]", *values, "hydra.sweep.dir=sweep", "-m")
    assert done.returncode == 1
    assert done.stderr.count("1 done, 1 failed") == 2
    saved = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("$*_clip.*"))
    assert saved == ["out/0/clip/tiny/${x}_clip.npy", "out/1/clip/tiny/${x}_clip.pkl"]
    assert {path.name for path in tmp_path.iterdir()} == {"broken.jpg", "${x}.jpg", "out", "sweep"}


def test_save_skip_and_redo(run: Run, tmp_path: Path) -> None:
    save = (f"video_paths={VIDEO}", "on_extraction=save_numpy", "output_path=out")
    first = run(*save, "extraction_total=3")
    assert (first.returncode, first.stdout) == (0, "")
    folder = tmp_path / "out" / "clip" / "tiny"
    saved = folder / "v_GGSY1Qvo990_clip.npy"
    assert np.load(saved).shape == (3, 16)
    written = saved.stat().st_mtime_ns
    second = run(*save, "extraction_total=3")
    assert second.returncode == 0
    assert "1 skipped" in second.stderr
    assert saved.stat().st_mtime_ns == written
    refused = run(*save, "extraction_total=4")
    assert refused.returncode == 1
    assert "error: out/clip/tiny: holds results of other settings (there -> asked for: sampling.num_rows: 3 -> 4)" in (
        refused.stderr
    )
    assert saved.stat().st_mtime_ns == written
    third = run(*save, "extraction_total=4", "overwrite=true")
    assert third.returncode == 0
    assert "num_rows: 3 -> 4" in third.stderr
    assert np.load(saved).shape == (4, 16)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_one_unusable_file_is_listed_and_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a, b=c's.mp4").write_text("no video")
    files = ("video_paths=['a, b=c''s.mp4', " + f"'{VIDEO}', missing.mp4]", "extraction_total=1")
    done = run(*files, "on_extraction=[print,save_pickle]")
    assert done.returncode == 1
    assert "1 done, 2 failed (listed in output/ledger.jsonl)" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "output" / "ledger.jsonl").read_text().splitlines()]
    found = {Path(line["path"]).name: line["status"] for line in lines if line["event"] == "item"}
    assert found == {"a, b=c's.mp4": "failed", VIDEO.name: "done", "missing.mp4": "failed"}
    raised = run(*files, "on_error=raise")
    assert raised.returncode == 1
    assert raised.stderr.rstrip().splitlines()[-1].startswith("error: a, b=c's.mp4: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("video_path=a.mp4",), "error: video_path: no such key; did you mean video_paths?"),
        (("video_paths=a.mp4", "batch_size=many"), "error: batch_size=many: expected a whole number"),
        ((), "error: nothing to work on: expected at least one of video_paths, file_with_video_paths, image_paths"),
        (
            ("image_paths=a.jpg", "preset=RN101_44"),
            "error: preset=RN101_44: no such option; did you mean RN101_448",
        ),
        (
            ("image_paths=a.jpg", "preset=RN101"),
            "error: preset=RN101 describes 49 x 2048 grid features, model_name=",
        ),
        (("image_paths=a.jpg", "resolution=100"), "error: resolution=100: expected a multiple of 16 pixels"),
        (("image_paths=a.jpg", "shard=0/8"), "error: shard=0/8: expected i/n"),
        (("image_paths=a.jpg", "features=[globe]"), "error: features=globe: did you mean global?"),
    ],
)
def test_users_mistakes_are_one_line(run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("job", "key"), [("search", "query"), ("convert", "input_path")])
def test_a_key_that_a_job_cannot_do_without(job: str, key: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "main.py"), "--config-name", job]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {key}: this job needs it; give {key}=...\n"


def options() -> list[tuple[str, str]]:
    """(group, option) as Hydra finds them in configs/, so that a new file cannot be missed."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def below(folder: str) -> list[str]:
            deeper = [f"{name}/" for name in loader.get_group_options(folder, ObjectType.GROUP)]
            names = [name + option for name in deeper for option in below(f"{folder}/{name}".rstrip("/"))]
            return [*loader.get_group_options(folder, ObjectType.CONFIG), *names]

        return [(group, option) for group in GROUPS for option in below(folder_of(group))]


def folder_of(group: str) -> str:
    return group.partition("@")[0]


def test_every_file_is_a_job_an_option_or_shared() -> None:
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    defaults = [default for job in JOBS for default in defaults_of(job)]
    shared = {default for default in defaults if isinstance(default, str)} - {"_self_"}
    found = {f"{folder_of(group)}/{option}" for group, option in options()}
    assert files == {*JOBS, *shared, *found, "hydra/job_logging/plain"}
    assert found == {f"{folder_of(g)}/{option}" for g in GROUPS for option in option_names(CONFIGS / folder_of(g))}
    assert {"shared/feature_type/clip", "extract/preset/ViT-B/32_448"} <= found


def defaults_of(name: str) -> list[str | dict[str, Any]]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")).get("defaults", [])


def test_a_key_is_the_name_of_one_folder() -> None:
    for group, (key, _) in GROUPS.items():
        folder, _, place = group.partition("@")
        assert (CONFIGS / folder).is_dir()
        assert place in ("", key)
    assert len({key for key, _ in GROUPS.values()}) == len(GROUPS)


@pytest.mark.parametrize(("group", "option"), options())
def test_every_option_composes_and_names_what_there_is(group: str, option: str, tiny: Path) -> None:
    key, job = GROUPS[group]
    given = f"{key}=[{option}]" if key in LISTS else f"{key}={option}"
    config = composed(job, given, f"model_name={tiny}" if job in OF_MODELS else "seed=0")
    node = config[key] if "@" in group else config  # without a place of its own: keys of the whole config
    targets = [node["_target_"] for node in walk(OmegaConf.to_container(node, resolve=False)) if "_target_" in node]
    assert targets
    for target in targets:
        assert callable(get_object(target)), target
        assert target.partition(".")[0] in ROOMS, target


@pytest.mark.parametrize(("group", "option"), [(g, option) for g, option in options() if "@" not in g])
def test_what_an_overlay_sets_can_be_given_on_the_command_line(group: str, option: str) -> None:
    """Its keys, and the groups in which it chooses."""
    keys, groups = known_keys(GROUPS[group][1])
    name = f"{folder_of(group)}/{option}"
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    content = yaml.safe_load(text) or {}
    assert content.keys() - {"defaults"} <= keys
    chosen = [default for default in content.get("defaults", []) if isinstance(default, dict)]
    assert {key.removeprefix("override ").removeprefix("/") for default in chosen for key in default} <= {
        *groups.values()
    }


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """All dicts in a config."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from walk(child)


@pytest.mark.parametrize(("group", "option"), [pair for pair in options() if pair[0].endswith(BUILT)])
def test_every_option_of_extraction_builds(group: str, option: str, tiny: Path, tmp_path: Path) -> None:
    key, _ = GROUPS[group]
    weights = [f"model_name={tiny}"]
    if option == "open_clip":
        weights = [f"model_name=local-dir:{write_open_clip_model(tmp_path / 'model')}"]
    if option == "transformers":
        weights = [f"model_name={write_transformers_model(tmp_path / 'model')}"]
    given = f"{key}=[{option}]" if key in LISTS else f"{key}={option}"
    config = composed("extract", given, *weights, "device=cpu", f"output_path={tmp_path}")
    built = instantiate(config[key], _convert_="all")
    assert load(built).feature_type == option if key == "feature_type" else built


def test_images_and_texts_in_one_run(run: Run, tmp_path: Path) -> None:
    sample = ROOT / "sample"
    inputs = (f"image_paths={sample}", "texts=['a cat, asleep', a rocket]", f"annotations={sample / 'captions.json'}")
    done = run(*inputs, "features=[global,grid]", "on_extraction=[save_npz,save_hdf5]")
    assert done.returncode == 0, done.stderr
    assert "9 done" in done.stderr
    results = tmp_path / "output" / "clip"
    image, texts = np.load(results / "tiny" / "cat.npz"), np.load(results / "tiny_texts" / "cat.npz")
    assert {key: image[key].shape for key in image.files} == {"g_feature": (1, 16), "features": (4, 64)}
    assert {key: texts[key].shape for key in texts.files} == {"g_feature": (2, 16)}
    assert np.load(results / "tiny_texts" / "texts.npz")["g_feature"].shape == (2, 16)
    again = run(*inputs, "features=[global,grid]", "on_extraction=[save_npz,save_hdf5]")
    assert "9 skipped" in again.stderr
    changed = tmp_path / "captions.json"
    changed.write_text((sample / "captions.json").read_text().replace("A rocket before", "The rocket before"))
    other = run(f"annotations={changed}", "features=[global,grid]", "on_extraction=[save_npz,save_hdf5]")
    assert "1 done, 3 skipped" in other.stderr


def test_every_kind_of_input_in_the_second_family(run: Run, tmp_path: Path) -> None:
    model = write_open_clip_model(tmp_path.parent / f"{tmp_path.name}-model")
    (model / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Small\n")
    inputs = (f"image_paths={ROOT / 'sample' / 'cat.jpg'}", f"video_paths={VIDEO}", "texts=a cat")
    family = ("feature_type=open_clip", f"model_name=local-dir:{model}", "extraction_total=2", "features=[global,grid]")
    done = run(*family, *inputs, "on_extraction=[save_numpy,save_npz,save_hdf5,save_pickle]")
    assert done.returncode == 0, done.stderr
    results = tmp_path / "output" / "open_clip"
    assert np.load(results / model.name / "cat_open_clip.npy").shape == (1, 16)
    assert np.load(results / model.name / "v_GGSY1Qvo990_grid.npy").shape == (2, 4, 64)
    assert np.load(results / f"{model.name}_texts" / "texts_open_clip.npy").shape == (1, 16)
    meta = json.loads((results / model.name / "cat_meta.json").read_text())
    assert meta["provenance"]["licence"] == "cc-by-4.0"


def test_a_text_that_is_too_long(run: Run, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a cat\n" + "cat " * 100 + "\na dog\n")
    failed = run("file_with_texts=long.txt")
    assert failed.returncode == 1
    assert "long.txt, line 2: the text has 102 tokens, 77 is the most this model takes" in failed.stderr
    cut = run("file_with_texts=long.txt", "text_overflow=truncate")
    assert cut.returncode == 0, cut.stderr
    assert cut.stdout.startswith("clip\n")


@pytest.mark.shared
def test_coco_images_and_captions(run: Run, tmp_path: Path) -> None:
    """A list of images with COCO's names and a Karpathy json: one valid file for each image and for each text id."""
    coco = SHARED / "data" / "coco_captions_subset"
    lists = (f"file_with_image_paths={coco / 'image_list.txt'}", f"image_dir={coco / 'images'}", "id_mode=coco_int")
    done = run(
        *lists, f"annotations={coco / 'dataset_coco_subset.json'}", "on_extraction=save_npz", "features=[global,grid]"
    )
    assert done.returncode == 0, done.stderr
    results = tmp_path / "output" / "clip"
    listed = (coco / "image_list.txt").read_text().split()
    content = json.loads((coco / "dataset_coco_subset.json").read_text())["images"]
    for name in listed:
        image = np.load(results / "tiny" / f"{int(Path(name).stem)}.npz")
        assert (image["features"].shape, image["g_feature"].shape) == ((4, 64), (1, 16))
        assert np.isfinite(image["features"]).all()
    for entry in content:
        texts = np.load(results / "tiny_texts" / f"{entry['cocoid']}.npz")
        assert texts["g_feature"].shape == (len(entry["sentences"]), 16)
    assert len(list((results / "tiny").glob("*.npz"))) == len(listed)
    assert len(list((results / "tiny_texts").glob("*.npz"))) == len(content)


@pytest.mark.shared
def test_every_bad_image_is_listed_with_a_reason_and_nothing_else_is_lost(run: Run, tmp_path: Path) -> None:
    done = run(f"image_paths={PARITY / 'images'}", "on_extraction=save_numpy")
    assert done.returncode == 1
    assert "21 done, 3 failed" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "output" / "ledger.jsonl").read_text().splitlines()]
    failed = {Path(line["path"]).name: line["reason"] for line in lines if line.get("status") == "failed"}
    assert failed.keys() == {"bad_empty.png", "bad_text.jpg", "bad_truncated.jpg"}
    assert all(len(reason) > 20 for reason in failed.values())
    assert len(list((tmp_path / "output" / "clip" / "tiny").glob("*_meta.json"))) == 21


@pytest.mark.parametrize("name", JOBS)
def test_every_job_composes_and_stays_where_it_was_started(name: str) -> None:
    assert callable(get_object(composed(name).job._target_))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = compose(name, return_hydra_config=True).hydra
        given = compose(name, prepare(["hydra.run.dir=x", "hydra/job_logging=none"]), return_hydra_config=True).hydra
    assert (hydra.run.dir, hydra.output_subdir) == (".", None)
    choices = hydra.runtime.choices
    assert (choices["hydra/job_logging"], choices["hydra/hydra_logging"]) == ("plain", "none")
    assert (given.run.dir, given.runtime.choices["hydra/job_logging"]) == ("x", "none")
