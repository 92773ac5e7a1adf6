"""What runs in a process of its own: `python -m evaluation.captions.java_child meteor GIVEN.json FOUND.json`.

GIVEN holds references and captions as pycocoevalcap takes them, FOUND gets the score and those of the images.
"""

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path


def main(name: str, given: str, found: str) -> None:
    references, captions = json.loads(Path(given).read_text(encoding="utf-8"))
    scorer = getattr(import_module(f"pycocoevalcap.{name}.{name}"), name.title())()
    try:
        result = scorer.compute_score(references, captions)
    except (OSError, ValueError) as error:
        java = getattr(scorer, "meteor_p", None)  # METEOR's Java speaks into a pipe that nobody reads
        if java:
            java.kill()
            print(java.stderr.read().decode(errors="replace"), file=sys.stderr)
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)  # at once: METEOR's destructor would wait for ever for a lock that it holds itself
    Path(found).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
