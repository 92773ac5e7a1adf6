"""Which coded pictures of H.264 and HEVC a decoder can begin at. Both standards call them IDR pictures.

A container's key frame may be less: a picture from which a decoder recovers after a while, or one with followers that
look behind it. Sources: ITU-T H.264, table 7-1; ITU-T H.265, table 7-1; ISO/IEC 14496-15 for how MP4 and Matroska
store them, with their length in front of each unit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class _Codec:
    idr: tuple[int, ...]
    parameter_sets: tuple[int, ...]


_CODECS = {
    "h264": _Codec(idr=(5,), parameter_sets=(7, 8, 13, 15)),
    "hevc": _Codec(idr=(19, 20), parameter_sets=(32, 33, 34)),
}


@dataclass
class CodedPictures:
    """Looks at the packets of one stream, in decoding order."""

    codec: str
    length_bytes: int  # of the number in front of each unit
    settings_stay: bool = True  # False once parameter sets were met that a decoder that jumps would miss
    _sets: list[bytes] | None = field(default=None)

    @classmethod
    def of(cls, codec: str, extradata: bytes) -> "CodedPictures | None":
        """None where units are not stored with their lengths (`extradata` is the record of ISO/IEC 14496-15)."""
        at = {"h264": 4, "hevc": 21}[codec]
        if len(extradata) <= at or extradata[0] != 1:
            return None
        return cls(codec, (extradata[at] & 3) + 1)

    def is_start(self, packet: memoryview, *, keyframe: bool) -> bool:
        """Whether this is an IDR picture."""
        kinds = _CODECS[self.codec]
        idr, sets = False, []
        for unit in self._units(packet):
            kind = unit[0] & 31 if self.codec == "h264" else unit[0] >> 1 & 63
            idr |= kind in kinds.idr
            if kind in kinds.parameter_sets:
                sets.append(bytes(unit))
        start = idr and keyframe
        if start:
            self._sets = sets if self._sets is None else self._sets
            self.settings_stay &= sets == self._sets
        else:
            self.settings_stay &= not sets
        return start

    def _units(self, packet: memoryview) -> Iterator[memoryview]:
        at, size = 0, self.length_bytes
        while at + size < len(packet):
            length = int.from_bytes(packet[at : at + size], "big")
            if length:
                yield packet[at + size : at + size + length]
            at += size + length
