"""Under which licence weights are: what the model card beside them says. It goes into the meta files of results."""

from pathlib import Path

from utils.plain_files import read_plain

CARD = "README.md"
_MOST_BYTES = 1 << 24  # of a model card


def licence_beside(weights: Path) -> str | None:
    """ "apache-2.0", "apple-amlr": what README.md, in the same folder (or in the folder that is given), says on top.

    None where there is no card, or no word of a licence in it.
    """
    return licence_of(weights / CARD if weights.is_dir() else weights.with_name(CARD))


def licence_of(card: Path) -> str | None:
    """As the hub reads it: `license`, or `license_name` where that is "other"."""
    from huggingface_hub import ModelCard  # late: slow to import
    from yaml import YAMLError

    try:
        text = read_plain(card, most_bytes=_MOST_BYTES).decode("utf-8")
        facts = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, YAMLError):
        return None
    found = facts.get("license")
    if found == "other":
        found = facts.get("license_name") or found
    listed = found if isinstance(found, list) else [found]
    return ", ".join(" ".join(str(each).split())[:100] for each in listed if each) or None
