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
from shared_data import ROOT

from utils.command_line import CONFIGS

VIDEO = ROOT / "sample" / "v_GGSY1Qvo990.mp4"
JOB_GROUPS = ("feature_type", "on_extraction", "evaluation", "pairs")  # of jobs that use a model
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
    third = run(*save, "extraction_total=4")
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
        ((), "error: expected exactly one of video_paths and file_with_video_paths"),
    ],
)
def test_users_mistakes_are_one_line(run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def options() -> list[tuple[str, str]]:
    """(group, option) as Hydra finds them in configs/, so that a new file cannot be missed."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = [group for group in loader.get_group_options("", ObjectType.GROUP) if (CONFIGS / group).is_dir()]
        return [(group, option) for group in groups if group != "hydra" for option in loader.get_group_options(group)]


def job(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def test_the_options_are_the_files() -> None:
    files = {(path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml")}
    assert set(options()) == files
    assert {("feature_type", "clip"), ("on_extraction", "print")} <= files


def job_with(group: str) -> str:
    """The first job (extract before the others) whose defaults name that group."""
    for path in sorted(CONFIGS.glob("*.yaml"), key=lambda path: (path.stem != "extract", path.stem)):
        defaults = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
        if any(isinstance(default, dict) and group in default for default in defaults):
            return path.stem
    raise AssertionError(f"no job uses configs/{group}")


@pytest.mark.parametrize(("group", "option"), options())
def test_every_option_composes_and_names_what_there_is(group: str, option: str, tiny: Path) -> None:
    given = f"[{option}]" if group in ("on_extraction", "evaluation") else option
    config = job(job_with(group), f"{group}={given}", f"model_name={tiny}" if group in JOB_GROUPS else "seed=0")
    nodes = [config] if group == "experiment" else [config[group]]
    targets = [node["_target_"] for node in walk(OmegaConf.to_container(nodes[0], resolve=False)) if "_target_" in node]
    assert targets
    for target in targets:
        assert callable(get_object(target)), target
        assert target.partition(".")[0] in ("apps", "evaluation", "models", "training", "utils")


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """All dicts in a config."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from walk(child)


@pytest.mark.parametrize(("group", "option"), [pair for pair in options() if pair[0] in JOB_GROUPS[:2]])
def test_every_option_of_extraction_builds(group: str, option: str, tiny: Path, tmp_path: Path) -> None:
    given = f"[{option}]" if group == "on_extraction" else option
    config = job("extract", f"{group}={given}", f"model_name={tiny}", "device=cpu", f"output_path={tmp_path}")
    assert instantiate(config[group], _convert_="all")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_job_composes_and_stays_where_it_was_started(name: str) -> None:
    config = job(name)
    assert callable(get_object(config.job._target_))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = compose(name, return_hydra_config=True).hydra
    assert (hydra.run.dir, hydra.output_subdir) == (".", None)
