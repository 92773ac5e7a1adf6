"""Makes the files of this folder with the reference implementations; see SOURCES.md.

python tests/golden/make_golden.py CLIP GRID PARITY
CLIP and GRID are clones of openai/CLIP and jianjieluo/OpenAI-CLIP-Feature, PARITY is ../shared/parity.
"""

import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import packaging.version
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parents[1] / "sample"
PHOTOS = ["astronaut.jpg", "cat.jpg", "coffee.jpg", "rocket.jpg"]  # of sample/
AWKWARD = ["la.png", "one_bit.png", "palette_trns.png", "pixel_1x1.png", "tiny_10x7.png"]  # copied from PARITY
GRIDS_OF = ["cat.jpg", "la.png"]
VIDEO = "pan_photos.mp4"
CASES = {"fps1": "fps=1", "fps5": "fps=5", "fps25": "fps=25"}
SIZES = {
    "vit": {"vision_layers": 2, "vision_width": 128, "vision_patch_size": 32, "transformer_width": 128},
    "rn": {"vision_layers": (1, 1, 1, 1), "vision_width": 8, "vision_patch_size": None, "transformer_width": 64},
}
EXTRACTORS = {"vit_224": "ViT-B/32", "vit_448": "ViT-B/32_448", "rn_224": "RN101", "rn_448": "RN101_448"}
LEVELS = torch.distributions.Normal(0, 1).icdf((torch.arange(16) + 0.5) / 16)  # 16 values a tensor: small once packed
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 1, "pb": 1}]


def shims() -> None:
    """Two repairs outside the reference code, without which it does not run on current Python and PyTorch."""
    sys.modules["pkg_resources"] = types.SimpleNamespace(packaging=packaging)  # type: ignore[assignment]
    load = torch.jit.load

    def load_and_rewind(file, *args, **kwargs):
        try:
            return load(file, *args, **kwargs)
        except RuntimeError:
            file.seek(0)  # what is no archive is read again, as a state dict
            raise

    torch.jit.load = load_and_rewind


def image_path(name: str) -> Path:
    return SAMPLE / name if name in PHOTOS else HERE / name


def random_weights(kind: str, crops: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every number counts and is exact in half precision; different images get different features."""
    from clip.model import CLIP

    sizes = {"embed_dim": 32, "image_resolution": 224, "context_length": 77, "vocab_size": 49408}
    model = CLIP(**sizes, **SIZES[kind], transformer_heads=SIZES[kind]["transformer_width"] // 64, transformer_layers=2)
    model.initialize_parameters()
    width = SIZES[kind]["transformer_width"]
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = LEVELS[torch.randint(16, value.shape)]
            if name == "token_embedding.weight":  # four quarters, one for each hexadecimal digit of the id
                tables = 0.02 * LEVELS[torch.randint(16, (4, 16, width // 4))]
                digits = torch.stack([torch.arange(len(value)) >> shift & 15 for shift in (12, 8, 4, 0)])
                value.copy_(torch.cat([table[digit] for table, digit in zip(tables, digits, strict=True)], dim=1))
            elif name == "logit_scale":
                value.fill_(2.75)
            elif value.ndim > 1 or name.endswith("embedding"):
                value.copy_(noise * (value.std() if value.std() > 0 else 0.1))
            elif name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            else:
                value.copy_(0.1 * noise)
        if kind == "rn":
            for module in model.visual.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None  # the plain average
            model.train().encode_image(crops)
        model.eval().half().float()
        mean = model.encode_image(crops).mean(dim=0)
        if kind == "vit":
            model.visual.ln_post.bias -= 0.85 * torch.linalg.pinv(model.visual.proj.T) @ mean
        else:
            model.visual.attnpool.c_proj.bias -= 0.85 * mean
    state = model.half().state_dict()
    return {key: value.clone() for key, value in state.items()}


def check_that_every_tensor_matters(state: dict[str, torch.Tensor], crops: torch.Tensor, tokens: torch.Tensor) -> None:
    from clip.model import build_model

    def outputs(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        model = build_model(weights).float()
        with torch.no_grad():
            image, text = model.encode_image(crops), model.encode_text(tokens)
            features = [(values / values.abs().max()).flatten() for values in (image, text)]
            return torch.cat([*features, model.logit_scale[None]])

    wanted = outputs(dict(state))
    for key, value in state.items():
        if key.endswith(("num_batches_tracked", "k_proj.bias")):  # not used; cancels out in the softmax
            continue
        changed = outputs(dict(state) | {key: value.roll(1, 0) if value.ndim else value + 1})
        assert (changed - wanted).abs().max() > 2e-3, key


def numbers_of_clip(parity: Path) -> dict[str, np.ndarray]:
    import clip

    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    tokens = clip.tokenize(texts, truncate=True)
    found = {"tokens": tokens.numpy().astype(np.int32), "image_names": np.array([*PHOTOS, *AWKWARD])}
    _, preprocess = clip.load(str(parity / "tiny_vit.pt"), device="cpu")
    images = torch.stack([preprocess(Image.open(image_path(name))) for name in [*PHOTOS, *AWKWARD]])
    hashes = [hashlib.sha256(image.numpy().astype("<f4").tobytes()).hexdigest() for image in images]
    found["preprocessed_sha256"] = np.array(hashes)
    for kind in SIZES:
        state = random_weights(kind, images)
        check_that_every_tensor_matters(state, images, tokens)
        content = io.BytesIO()
        torch.save(state, content)
        (HERE / f"tiny_{kind}.pt.xz").write_bytes(lzma.compress(content.getvalue(), filters=LZMA))
        Path(f"tiny_{kind}.pt").write_bytes(content.getvalue())
        model, _ = clip.load(f"tiny_{kind}.pt", device="cpu")
        with torch.no_grad():
            found[f"{kind}_image_features"] = torch.cat([model.encode_image(image[None]) for image in images]).numpy()
            found[f"{kind}_text_features"] = torch.cat([model.encode_text(text[None]) for text in tokens]).numpy()
            per_image, per_text = model(images, tokens)
            found |= {f"{kind}_logits_per_image": per_image.numpy(), f"{kind}_logits_per_text": per_text.numpy()}
    return found | numbers_of_video(preprocess, parity)


def frames_of_ffmpeg(filters: str) -> list[np.ndarray]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(HERE / VIDEO), "-vf", filters]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    return list(np.frombuffer(content, np.uint8).reshape(-1, 240, 320, 3))


def numbers_of_video(preprocess, parity: Path) -> dict[str, np.ndarray]:
    """The features of all frames; which rows a rate has, and at what times, is what video_features said."""
    import clip

    model, _ = clip.load("tiny_vit.pt", device="cpu")
    frames = frames_of_ffmpeg("null")
    with torch.no_grad():
        rows = [model.encode_image(preprocess(Image.fromarray(frame))[None]) for frame in frames]
    found = {"native_features": torch.cat(rows).numpy()}
    with np.load(parity / "expected_video_clean.npz") as theirs:
        found |= {f"native_{key}": theirs[f"native_{key}"] for key in ("pts_ms", "fps")}
        for case in (*CASES, "total10"):
            index = theirs[f"{case}_lossless_source_index"]
            found |= {
                f"{case}_source_index": index,
                f"{case}_source_pts_ms": theirs[f"{case}_lossless_source_pts_ms"],
                f"{case}_timestamps_ms": theirs[f"{case}_lossless_timestamps_ms"],
                f"{case}_fps": theirs[f"{case}_fps"],
            }
            if case in CASES:
                chosen = frames_of_ffmpeg(CASES[case])
                assert all(np.array_equal(frames[i], frame) for i, frame in zip(index, chosen, strict=True))
    return found


def numbers_of_grid() -> dict[str, np.ndarray]:
    """By the extract() loop of OpenAI-CLIP-Feature; its class for 448 pixels pools 2 x 2 patches."""
    import visual_extractor

    found = {}
    for key, name in EXTRACTORS.items():
        checkpoint = f"tiny_{key.split('_')[0]}.pt"
        args = types.SimpleNamespace(model_type_or_path=checkpoint, skip_miss_img=False, debug=False)
        for image in GRIDS_OF:
            visual_extractor.create(name, args, [str(image_path(image))], ["one.npz"]).extract()
            with np.load("one.npz") as arrays:
                found[f"{key}_{image}_grid"] = arrays["features"]
                found[f"{key}_{image}_global"] = arrays["g_feature"]
            Path("one.npz").unlink()
    return found


def main(clip_clone: str, grid_clone: str, parity: str) -> None:
    if grid_clone == "-":  # the second process: the clone of the other repository has a `clip` of its own
        sys.path.insert(0, clip_clone)
        np.savez_compressed(HERE / "grid.npz", **numbers_of_grid())
        return
    for name, folder in ({"texts.json": ".", VIDEO: "video"} | dict.fromkeys(AWKWARD, "images")).items():
        shutil.copyfile(Path(parity) / folder / name, HERE / name)
    sys.path.insert(0, clip_clone)
    torch.manual_seed(20240611)
    np.savez_compressed(HERE / "clip.npz", **numbers_of_clip(Path(parity)))
    subprocess.run([sys.executable, __file__, grid_clone, "-", parity], check=True)


if __name__ == "__main__":
    places = [place if place == "-" else str(Path(place).resolve()) for place in sys.argv[1:]]
    shims()
    with tempfile.TemporaryDirectory() as folder:
        if "-" not in places:
            os.chdir(folder)  # for the checkpoints, which the second process reads, too
        main(*places)
