"""`--config-name caption`: images and videos in, sentences with times out."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import call

from extraction.encoder import Encoder
from extraction.options import FrameOptions, PictureOptions
from extraction.pipeline import extract
from media.inputs import find_inputs
from models.captioner.checkpoint import save_captioner
from models.captioner.decoding import decode
from models.captioner.extract_captions import ExtractCaptions
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.vocabulary import Vocabulary
from models.load import ModelChoice
from store.captions import PrintCaptions, SaveCaptions, web_vtt
from store.provenance import file_sha256
from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import TINY_RESNET, tiny_model
from utils.errors import UserError, user_error_in
from utils.types import Features, Item

PHOTO, VIDEO = ROOT / "sample" / "cat.jpg", ROOT / "sample" / "v_GGSY1Qvo990.mp4"
WORDS = ["a", "cat", "dog", "red", "circle", "on", "the", "left"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "resnet.pt"
    torch.save(tiny_model(architecture=TINY_RESNET).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def captioner(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Captioner(vocab_size=len(WORDS), grid_width=256, width=32, layers=1, heads=2, hidden=32)
    model.initialize()
    features = {
        "model_name": str(weights),
        "resolution": 128,
        "resize": "squash",
        "weights_sha256": file_sha256(weights),
    }
    path = tmp_path_factory.mktemp("captioner") / "captioner.pt"
    save_captioner(path, model, Vocabulary(WORDS), features)
    return path


def captions_of(captioner: Path | str, **options: Any) -> ExtractCaptions:
    """From plain keywords, each for the class it belongs to."""
    kinds = {"model": ModelChoice, "frames": FrameOptions, "pictures": PictureOptions}
    given: dict[str, Any] = {"model": {"device": "cpu", "model_name": None}, "frames": {}, "pictures": {}}
    for name, kind in kinds.items():
        for key in [each.name for each in fields(kind) if each.name in options]:
            given[name][key] = options.pop(key)
    made = {name: kind(**given[name]) for name, kind in kinds.items()}
    return ExtractCaptions(captioner=str(captioner), **made, **options)


def run(captioner: Path, out: Path, handlers: list[Any], *, overwrite: bool = False, **options: Any) -> int:
    given = {"inputs": find_inputs(image_paths=str(PHOTO), video_paths=str(VIDEO)), "overwrite": overwrite}
    return extract(**given, extractor=captions_of(captioner, **options), on_extraction=handlers, output_path=out)


def test_captions_of_a_photo_and_a_video(captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(captioner, tmp_path, [PrintCaptions(), SaveCaptions()], extraction_fps=1) == 0
    home = tmp_path / "captions" / "captioner"
    rows = json.loads((home / "v_GGSY1Qvo990_predictions.json").read_text())
    assert [row["timestamp_ms"] for row in rows] == [1000.0 * k for k in range(8)]
    assert all(set(row["caption"].split()) <= set(WORDS) for row in rows)
    assert (home / "v_GGSY1Qvo990.txt").read_text().splitlines() == [row["caption"] for row in rows]
    assert len((home / "cat.txt").read_text().splitlines()) == 1
    assert not (home / "cat.vtt").exists()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 9
    assert re.search(r"v_GGSY1Qvo990.mp4  00:00:03.000  .*\(CLIP-S [0-9.]+\)$", printed[3])
    check_vtt((home / "v_GGSY1Qvo990.vtt").read_text(), rows, end_seconds=8)


def test_the_embedded_captioner_sees_the_cat(tmp_path: Path) -> None:
    """The photo and the first four seconds of the video show one."""
    assert run(Path("tiny"), tmp_path, [SaveCaptions()], extraction_fps=1) == 0
    home = tmp_path / "captions" / "tiny"
    assert "cat" in (home / "cat.txt").read_text().split()
    assert all("cat" in caption.split() for caption in (home / "v_GGSY1Qvo990.txt").read_text().splitlines()[:4])


def check_vtt(text: str, rows: list[dict[str, Any]], end_seconds: float) -> None:
    """Cues follow one another without a gap, each with the caption of its rows."""
    header, *cues = text.strip().split("\n\n")
    assert header == "WEBVTT"
    at, row = 0.0, 0
    for cue in cues:
        times, caption = cue.split("\n")
        start, end = (seconds(clock) for clock in times.split(" --> "))
        assert start == at
        while row < len(rows) and rows[row]["timestamp_ms"] / 1000 < end:
            assert rows[row]["caption"] == caption or (caption == "-" and not rows[row]["caption"])
            row += 1
        at = end
    assert (row, at) == (len(rows), end_seconds)


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_a_second_run_has_nothing_to_do_and_another_way_to_decode_has(
    captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = [SaveCaptions()]
    run(captioner, tmp_path, save, extraction_total=2)
    run(captioner, tmp_path, save, extraction_total=2)
    assert "2 skipped" in capsys.readouterr().err
    other = {"extraction_total": 2, "decoding": Decoding("beam", beam_size=2)}
    with pytest.raises(UserError, match=r"results of other settings .*decoding\.beam_size: 5 -> 2"):
        run(captioner, tmp_path, save, **other)
    run(captioner, tmp_path, save, overwrite=True, **other)
    assert "2 done" in capsys.readouterr().err


def test_clip_s_is_that_of_the_score_model(captioner: Path, tiny: Path, tmp_path: Path) -> None:
    run(captioner, tmp_path, [SaveCaptions()], score_model=str(tiny), preprocess="exact", extraction_total=1)
    (row,) = json.loads((tmp_path / "captions" / "captioner" / "cat_predictions.json").read_text())
    from PIL import Image

    from extraction.preprocess import Preprocess
    from models.clip.weights import load_model

    model = load_model(tiny)
    encoder = Encoder(model, device=torch.device("cpu"))
    image = encoder.images(Preprocess.of(model.visual).pixels(Image.open(PHOTO)).unsqueeze(0))[0]
    text = encoder.texts(["A photo depicts " + row["caption"]])[0]
    cosine = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
    assert row["clip_s"] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)


def test_features_of_other_weights_are_refused(captioner: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match=r"trained on features of .* with SHA-256"):
        captions_of(captioner, model_name=str(tiny))


def test_grids_are_pooled_as_the_captioner_says(
    captioner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = tmp_path / "pooled.pt"
    content = torch.load(captioner, weights_only=True)
    torch.save(content | {"features": content["features"] | {"grid_pool": 2}}, pooled)
    tokens = []

    def spy(model: Captioner, grid: torch.Tensor, *given: Any) -> Any:
        tokens.append(grid.shape[1])
        return decode(model, grid, *given)

    monkeypatch.setattr("models.captioner.extract_captions.decode", spy)
    for model in (captioner, pooled):
        assert run(model, tmp_path, [PrintCaptions()], extraction_total=1) == 0
    assert set(tokens[: len(tokens) // 2]) == {16}  # 4 x 4 of 128 pixels
    assert set(tokens[len(tokens) // 2 :]) == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": "slow"}, "preprocess=slow: Expected one of"),
        ({"prefix": None}, "clip_prefix=None: expected a text"),
        ({"exif_orientation": "no"}, "exif_orientation=no: expected true or false"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, captioner: Path) -> None:
    with pytest.raises(UserError, match=message):
        captions_of(captioner, **options)


def test_subtitles() -> None:
    rows = [{"caption": text, "timestamp_ms": 0.0} for text in ("a cat", "a cat", "x --> <b> & y", "")]
    times = np.array([0.0, 40.0, 3_600_000.0, 3_661_001.0])
    features = Features(
        Item(Path("v.mp4"), "v"), "captions/x", {"timestamps_ms": times, "fps": np.array(2.0)}, {}, {}, rows
    )
    assert web_vtt(features) == (
        "WEBVTT\n\n00:00:00.000 --> 01:00:00.000\na cat\n\n"
        "01:00:00.000 --> 01:01:01.001\nx --&gt; &lt;b&gt; &amp; y\n\n"
        "01:01:01.001 --> 01:01:01.501\n-\n"
    )


def test_hours_of_subtitles_go_on_behind_a_day() -> None:
    times = np.array([90_061_002.0])
    features = Features(
        Item(Path("v.mp4"), "v"), "captions/x", {"timestamps_ms": times}, {}, {}, [{"caption": "a cat"}]
    )
    assert web_vtt(features) == "WEBVTT\n\n25:01:01.002 --> 25:01:02.002\na cat\n"


def test_no_handler_is_answered_in_one_line() -> None:
    config = composed("caption", f"image_paths={PHOTO}", "on_caption=[]")
    with pytest.raises(InstantiationException) as caught:
        call(config.job, _convert_="all")
    assert "on_caption=[]" in str(user_error_in(caught.value))


def test_captions_do_not_depend_on_what_is_captioned_beside_them(captioner: Path, tmp_path: Path) -> None:
    """Neither the search, nor the CLIP-S of texts of other lengths, nor where in a batch a picture stands."""
    found = []
    photos = sorted((ROOT / "sample").glob("*.jpg"))
    for order in (1, -1):
        given = {"image": [Item(path, path.stem) for path in photos[::order]], "video": [Item(VIDEO, "video")]}
        extractor = captions_of(captioner, batch_size=4, extraction_fps=2)
        out = tmp_path / str(order)
        assert extract(inputs=given, extractor=extractor, on_extraction=[SaveCaptions()], output_path=out) == 0  # pyright: ignore
        found.append({path.name: path.read_bytes() for path in out.rglob("*_predictions.json")})
    assert len(found[0]) == len(photos) + 1
    assert found[0] == found[1]
