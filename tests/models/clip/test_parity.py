"""The numbers of openai/CLIP and of v-iashin/video_features, made by their own code (../shared/parity/MANIFEST.md)."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extraction.batching import Encoded, encode_batches
from extraction.preprocess import Preprocess
from extraction.threads import prefetch
from models import clip
from models.clip import ExtractCLIP
from models.clip.model import CLIP
from models.clip.weights import load_model
from tests.helpers.shared_data import PARITY, SHARED, VIT_B_32
from utils.types import Item

pytestmark = pytest.mark.shared

TOLERANCE = 1e-4  # absolute for the ViT, relative to the largest value for the ResNet
FAST_TOLERANCE = 5e-3  # one level of 255 in a few pixels
LAYOUTS = [
    "tiny_vit_jit.pt",
    "ddp_state_dict.pt",
    "legacy_pickle.pt",
    "open_clip_custom_text.pt",
    "tiny_vit.safetensors",
    "hf_clip_model",
    "hf_legacy_bin",
]
VIDEOS = {"v_GGSY1Qvo990.mp4": "expected_video.npz", "pan_photos.mp4": "expected_video_clean.npz"}
RATES = {
    "native": {},
    "fps1": {"extraction_fps": 1},
    "fps5": {"extraction_fps": 5},
    "fps25": {"extraction_fps": 25},
    "total10": {"extraction_total": 10},
}
ACTIVITYNET = SHARED / "data" / "v-iashin__video_features"
REAL = ACTIVITYNET / "reference_clip_ViT-B-32_v_GGSY1Qvo990.npz"
# Damaged on purpose, or only the cover picture of a song.
NOT_WHOLE = ("truncated", "garbage", "cover_only")
# The ffmpeg program scales the frames after this one to the first size; here every frame is taken as it is.
SAME_SIZE = {"size_change.ts": 8}


def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(PARITY / name) as arrays:
        return dict(arrays)


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(np.float64) - other).max())


def extractor(**changes: object) -> ExtractCLIP:
    options = {"model_name": PARITY / "tiny_vit.pt", "device": "cpu", "preprocess": "exact"} | changes
    return ExtractCLIP(**options)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module", params=["vit", "rn"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kind: str) -> CLIP:
    return clip.load(str(PARITY / f"tiny_{kind}.pt"), device="cpu")[0]


@pytest.fixture(scope="module")
def images() -> Mapping[str, torch.Tensor]:
    preprocess = Preprocess(224)
    loaded = {}
    for name in expected("expected_image.npz")["names"]:
        with Image.open(PARITY / "images" / name) as image:
            loaded[str(name)] = preprocess(image)
    return loaded


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return clip.tokenize(json.loads((PARITY / "texts.json").read_text(encoding="utf-8")), truncate=True)


def test_token_ids(tokens: torch.Tensor) -> None:
    assert np.array_equal(tokens.numpy(), expected("expected_text.npz")["tokens"])


def test_texts_too_long_raise_where_the_original_does() -> None:
    texts = json.loads((PARITY / "texts.json").read_text(encoding="utf-8"))
    for text, raises in zip(texts, expected("expected_text.npz")["raises_without_truncate"], strict=True):
        if raises:
            with pytest.raises(RuntimeError, match="tokens"):
                clip.tokenize(text)
        else:
            clip.tokenize(text)


def test_preprocessing_is_exact_to_the_bit(images: Mapping[str, torch.Tensor]) -> None:
    hashes = [hashlib.sha256(image.numpy().astype("<f4").tobytes()).hexdigest() for image in images.values()]
    assert hashes == expected("expected_image.npz")["preprocessed_sha256"].tolist()


def test_crops_are_exact_to_the_bit(images: Mapping[str, torch.Tensor]) -> None:
    crops = expected("expected_image.npz")["crop_uint8"]
    for name, crop in zip(images, crops, strict=True):
        with Image.open(PARITY / "images" / name) as image:
            assert np.array_equal(Preprocess(224).pixels(image).permute(1, 2, 0).numpy(), crop), name


@pytest.mark.parametrize("name", ["bad_empty.png", "bad_text.jpg", "bad_truncated.jpg"])
def test_bad_images_raise(name: str) -> None:
    with pytest.raises(OSError, match=r"cannot identify|truncated"), Image.open(PARITY / "images" / name) as image:
        Preprocess(224)(image)


def test_features_and_logits(kind: str, model: CLIP, images: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> None:
    batch = torch.stack(list(images.values()))
    with torch.no_grad():
        found = {
            f"image_features_{kind}": model.encode_image(batch),
            f"text_features_{kind}": model.encode_text(tokens),
            f"logits_per_image_{kind}": model(batch, tokens)[0],
            f"logits_per_text_{kind}": model(batch, tokens)[1],
        }
    wanted = expected("expected_image.npz") | expected("expected_text.npz") | expected("expected_logits.npz")
    for name, values in found.items():
        scale = np.abs(wanted[name]).max() if kind == "rn" else 1
        assert largest_difference(values.numpy(), wanted[name]) <= TOLERANCE * scale, name


def test_exact_gelu_is_another_model(images: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> None:
    model = load_model(PARITY / "tiny_vit.pt", activation="gelu")
    with torch.no_grad():
        image, text = model.encode_image(torch.stack(list(images.values()))), model.encode_text(tokens)
    wanted = expected("expected_image.npz") | expected("expected_text.npz")
    assert largest_difference(image.numpy(), wanted["image_features_vit_gelu"]) <= TOLERANCE
    assert largest_difference(text.numpy(), wanted["text_features_vit_gelu"]) <= TOLERANCE


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_holds_the_same_weights(name: str, wrappers: Path) -> None:
    path = PARITY / name if name == "tiny_vit_jit.pt" else wrappers / name
    found, wanted = clip.load(str(path), device="cpu")[0], clip.load(str(PARITY / "tiny_vit.pt"), device="cpu")[0]
    state = found.state_dict()
    assert all(torch.equal(state.pop(key), value) for key, value in wanted.state_dict().items())
    assert not state
    image, text = torch.randn(1, 3, 224, 224), clip.tokenize("a photo of a cat")
    with torch.no_grad():
        assert torch.equal(found.encode_image(image), wanted.encode_image(image))
        assert torch.equal(found.encode_text(text), wanted.encode_text(text))


def test_every_layout_of_the_archive_is_covered(wrappers: Path) -> None:
    assert {path.name for path in wrappers.iterdir()} == set(LAYOUTS) - {"tiny_vit_jit.pt"}


@pytest.mark.parametrize("case", RATES)
@pytest.mark.parametrize("name", VIDEOS)
def test_video_features_row_for_row(name: str, case: str) -> None:
    wanted = {
        key.removeprefix(f"{case}_"): value
        for key, value in expected(VIDEOS[name]).items()
        if key.startswith(f"{case}_")
    }
    found = extractor(**RATES[case]).extract(PARITY / "video" / name)
    assert largest_difference(found["clip"], wanted["lossless_features"]) <= TOLERANCE
    assert len(found["clip"]) == len(wanted["features"])  # of the reference itself, re-encoded
    assert found["fps"] == pytest.approx(wanted["fps"], abs=1e-12)
    if case == "native":
        assert largest_difference(found["timestamps_ms"], wanted["pts_ms"]) <= 1e-3
    else:
        assert largest_difference(found["timestamps_ms"], wanted["lossless_timestamps_ms"]) <= 1e-6
        assert largest_difference(found["source_timestamps_ms"], wanted["lossless_source_pts_ms"]) <= 1e-3


@pytest.mark.parametrize("case", ["fps1", "fps5", "total10"])
@pytest.mark.parametrize("name", VIDEOS)
def test_fast_preprocessing_is_near(name: str, case: str) -> None:
    found = extractor(preprocess="fast", **RATES[case]).extract(PARITY / "video" / name)["clip"]
    wanted = expected(VIDEOS[name])[f"{case}_lossless_features"]
    assert 0 < largest_difference(found, wanted) <= FAST_TOLERANCE
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.parametrize("case", ["fps5", "total10"])
def test_a_kept_file_gives_the_same_bits(case: str, tmp_path: Path) -> None:
    path = PARITY / "video" / "pan_photos.mp4"
    direct = extractor(**RATES[case]).extract(path)
    kept = extractor(**RATES[case], keep_tmp_files=True, tmp_path=tmp_path).extract(path)
    assert kept.keys() == direct.keys()
    assert all(np.array_equal(kept[key], direct[key]) for key in direct)
    assert [file.name for file in tmp_path.rglob("*.mp4")] == ["pan_photos_new_fps.mp4"]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (64, 3)])
def test_batches_and_workers_do_not_change_the_result(batch_size: int, workers: int) -> None:
    clip_extractor = extractor(extraction_fps=2)
    items = [Item(PARITY / "video" / name, name) for name in VIDEOS]
    videos = clip_extractor.videos
    with closing(prefetch(items, videos.rows.read, workers=workers, depth=4)) as events:  # pyright: ignore
        results = list(encode_batches(events, videos.encode, batch_size))
    for item, result in zip(items, results, strict=True):
        assert isinstance(result, Encoded)
        assert result.item == item
        alone = extractor(extraction_fps=2).extract(item.path)
        assert largest_difference(result.features["global"], alone["clip"]) <= 1e-5
        assert result.seconds == pytest.approx(alone["timestamps_ms"] / 1000)


def test_awkward_files() -> None:
    arrays = expected("expected_awkward.npz")
    wanted = {str(name): arrays[f"features_{k:03d}"] for k, name in enumerate(arrays["files"])}
    clip_extractor = extractor()
    names = [name for name in wanted if not name.startswith(NOT_WHOLE)]
    assert len(names) >= 60
    found = {name: clip_extractor.extract(PARITY / "awkward_media" / name)["clip"] for name in names}
    far = {
        name: largest_difference(found[name][: SAME_SIZE.get(name)], wanted[name][: SAME_SIZE.get(name)])
        for name in names
    }
    assert {name: len(found[name]) for name in names} == {name: len(wanted[name]) for name in names}
    assert {name: difference for name, difference in far.items() if difference > TOLERANCE} == {}


@pytest.mark.parametrize(
    ("options", "suffix", "rows_of"), [({}, "", "clip_bs1"), ({"extraction_fps": 5}, "_fps5", "clip_fps5_bs1")]
)
def test_rows_and_times_of_video_features_own_reference(
    options: dict[str, int], suffix: str, rows_of: str, tiny: Path
) -> None:
    with np.load(REAL) as wanted:
        found = extractor(model_name=tiny, preprocess="fast", **options).extract(
            ACTIVITYNET / "sample" / "v_GGSY1Qvo990.mp4"
        )
        assert len(found["clip"]) == len(wanted[rows_of])
        assert found["fps"] == pytest.approx(wanted[f"fps{suffix}"], abs=1e-9)
        assert largest_difference(found["timestamps_ms"], wanted[f"timestamps_ms{suffix}"]) <= 1e-3


@pytest.mark.weights
@pytest.mark.parametrize("preprocess", ["exact", "fast"])
def test_features_of_openais_weights(preprocess: str) -> None:
    video = ACTIVITYNET / "sample" / "v_GGSY1Qvo990.mp4"
    found = extractor(model_name=VIT_B_32, preprocess=preprocess).extract(video)["clip"]
    with np.load(REAL) as arrays:
        wanted = arrays["clip_bs1"].astype(np.float64)
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.999
