"""Captions of images from their grid features: the network, its words, and how captions are decoded."""

from models.captioner.checkpoint import LoadedCaptioner, find_captioner, load_captioner, save_captioner
from models.captioner.decoded import Beams, Decoded
from models.captioner.decoding import decode, decode_beams
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.vocabulary import Vocabulary

__all__ = [
    "Beams",
    "Captioner",
    "Decoded",
    "Decoding",
    "LoadedCaptioner",
    "Vocabulary",
    "decode",
    "decode_beams",
    "find_captioner",
    "load_captioner",
    "save_captioner",
]
