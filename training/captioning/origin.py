"""Which model stored features come from: features of one model mean nothing to another.

What the extractor noted beside them (settings of its records) is held against what the job was told.
"""

from collections.abc import Mapping
from typing import Any

from models.clip.weights import weights_sha256
from training.captioning.reward_text import judge_sha256
from utils.errors import UserError

USUAL = {"grid_pool": 1, "convert_rgb": "after_resize"}  # of grids that are not described further


def described_grids(features: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """`features` (model_name, resolution, resize) with the SHA-256 of the weights and what is noted of the pixels.

    UserError where model or resolution are not those that were noted: captions would look at others.
    """
    known = features.get("weights_sha256") or weights_sha256(str(features["model_name"]))
    described = dict(features) | {"weights_sha256": known}
    if "weights_sha256" not in noted:
        return described
    found = (noted["weights_sha256"], noted["resolution_px"])
    if found != (described["weights_sha256"], described["resolution"]):
        raise UserError(
            f"grid_model={features['model_name']} grid_resolution={features['resolution']}: the grids are those of "
            f"{noted['model_name']} (SHA-256 {noted['weights_sha256']:.8} ...) at {noted['resolution_px']} pixels, as "
            "their files say; give grid_model and grid_resolution so"
        )
    seen = {"grid_pool": noted["grid"]["pool"], "convert_rgb": noted["convert_rgb"]}
    unusual = {key: value for key, value in seen.items() if value != USUAL[key]}
    return described | {"resize": noted["resize"]} | unusual


def check_embeddings(model_name: str, noted: Mapping[str, Any], *, feature_type: str = "clip") -> None:
    """UserError where the embeddings were noted to be another model's: their products with its texts mean nothing."""
    found = noted.get("weights_sha256")
    if found and found != judge_sha256(model_name, feature_type):
        raise UserError(
            f"reward_model={model_name}: the embeddings are of {noted.get('model_name')} (SHA-256 {found:.8} ...) "
            "as their files say; give reward_model so, or the embeddings of this model as embeddings_path"
        )
