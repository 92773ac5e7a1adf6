"""Where the pretrained weights of towers of other libraries come from: the Hugging Face hub, its cache, or local files.

Weights that are asked for and cannot be had, or do not fit, are an error: nothing goes on from random ones.
"""

from pathlib import Path
from typing import Any

from torch import nn

from models.checked_tensors import check_tensors
from models.clip.wordpiece import SPECIAL
from models.hub import cached_first
from utils.errors import UserError, did_you_mean, first_line
from utils.plain_files import check_plain

_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")  # endings of timm's files, the safest first


def timm_model(name: str, pretrained: bool | str, resolution: int) -> nn.Module:
    """Without its classifier. `pretrained`: timm's own weights, a file of them, or a folder with one."""
    import timm

    if not timm.is_model(name):  # a path or an address of a hub would be opened, whoever wrote it into a checkpoint
        near = did_you_mean(name, timm.list_models())
        raise UserError(f"model_name={name}: no model of timm; {near}timm.list_models() names them")
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    size: dict[str, Any] = {"img_size": resolution} if fixed else {}
    if isinstance(pretrained, str):
        return _timm_from_file(name, pretrained, size)
    if not pretrained:
        return timm.create_model(name, num_classes=0, **size)
    try:
        return cached_first(lambda: timm.create_model(name, pretrained=True, num_classes=0, **size), offline=False)
    except Exception as error:  # of whatever the library fetches with
        source = f"{name} ({config.hf_hub_id})" if config is not None and config.hf_hub_id else name
        raise _no_weights("vision", pretrained, source, error, "false", "model.safetensors") from error


def _timm_from_file(name: str, given: str, size: dict[str, Any]) -> nn.Module:
    """timm is silent about weights that the file lacks. They start at random: of two models built alike they differ."""
    import timm
    from timm.models import load_state_dict

    file = _weights_in(Path(given).expanduser(), given)
    try:
        check_plain(file)
        state = load_state_dict(str(file), weights_only=True)
        check_tensors(file, state, {})
        one, other = (
            timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}, num_classes=0, **size
            )
            for _ in range(2)
        )
    except UserError:
        raise
    except Exception as error:  # whatever unpickling finds wrong with a file, and timm with its content
        raise UserError(f"vision.pretrained={given}: not weights of timm's {name} ({first_line(error)})") from error
    again = other.state_dict()
    missing = [key for key, value in one.state_dict().items() if not value.equal(again[key])]
    if missing:
        raise UserError(
            f"vision.pretrained={given}: not weights of timm's {name}: {len(missing)} are not there: {missing[0]} ..."
        )
    one.pretrained_cfg.pop("state_dict", None)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue] - kept twice
    return one


def _weights_in(path: Path, given: str) -> Path:
    """The file itself, or the only one of the best kind in a folder."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(
                f"vision.pretrained={given}: no such file or folder; expected true, false or timm's weights"
            )
        return path
    for ending in _WEIGHTS:
        if found := sorted(path.glob(f"*{ending}")):
            if len(found) > 1:
                raise UserError(f"vision.pretrained={given}: {len(found)} *{ending} files there: name one of them")
            return found[0]
    raise UserError(f"vision.pretrained={given}: no weights in this folder; expected one of *{', *'.join(_WEIGHTS)}")


def pretrained_distilbert(name: str | bool) -> tuple[Any, dict[str, Any]]:
    """The trunk and the arguments of `DistilBertTower` that describe it."""
    if not isinstance(name, str):
        raise UserError(f"text.pretrained={name}: expected a name on the Hugging Face hub, a folder, or null")
    path = Path(name).expanduser()
    if not path.exists() and name.startswith(("/", ".", "~")):
        raise UserError(f"text.pretrained={name}: no such file or folder")
    if path.exists():
        try:
            trunk, tokenizer, missing = _from_transformers(str(path.parent if path.is_file() else path))
        except Exception as error:  # whatever its readers find wrong with a file
            raise UserError(
                f"text.pretrained={name}: not a folder with a DistilBERT model and its tokenizer ({first_line(error)})"
            ) from error
    else:
        try:
            trunk, tokenizer, missing = cached_first(lambda: _from_transformers(name), offline=False)
        except Exception as error:  # of whatever the library fetches with
            raise _no_weights("text", name, name, error, "null", "folder") from error
    if missing:
        raise UserError(
            f"text.pretrained={name}: not a DistilBERT: {len(missing)} of its weights are not there: {missing[0]} ..."
        )
    config, words = trunk.config, tokenizer.get_vocab()
    if len(words) <= len(SPECIAL):  # transformers makes an empty tokenizer where it finds no file of one
        raise UserError(f"text.pretrained={name}: no vocabulary there: expected tokenizer.json or vocab.txt")
    return trunk, {
        "vocabulary": sorted(words, key=words.__getitem__),
        "lowercase": bool(tokenizer.do_lower_case),
        "width": config.dim,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "hidden_width": config.hidden_dim,
        "positions": config.max_position_embeddings,
    }


def _from_transformers(source: str) -> tuple[Any, Any, list[str]]:
    """Model, tokenizer, and names of weights that are not in the file, which transformers only warns of."""
    from transformers import DistilBertModel, DistilBertTokenizerFast

    found: Any = DistilBertModel.from_pretrained(source, output_loading_info=True)
    trunk, facts = found
    return trunk, DistilBertTokenizerFast.from_pretrained(source), sorted(facts["missing_keys"])


def _no_weights(tower: str, given: object, source: str, error: Exception, without: str, example: str) -> UserError:
    """Where they were looked for, and how they can be given."""
    key, given = f"{tower}.pretrained", "true" if given is True else given
    return UserError(
        f"{key}={given}: cannot get the weights of {source}: {first_line(error, longest=400)}. "
        f"Give their file or folder, {key}=path/to/{example}, or {key}={without} for random weights"
    )
