"""A minute of all kinds of damage: `python -m tests.fuzz`. Each of the programs below runs for as long as one likes.

`python -m tests.fuzz.media`, `.inputs`, `.overrides`, `.kills`, `.lists`; `--help` says more.
"""

import sys

from tests.fuzz import inputs, kills, media, overrides

sys.exit(
    media.main(["--num", "500", "--processes", "1"])
    + inputs.main(["--num", "100", "--processes", "1"])
    + overrides.main(["--num", "8", "--jobs", "extract,convert"])
    + kills.main(["random", "every", "faults", "--num", "2", "--items", "1", "--stride", "60", "--jobs", "images"])
)
