"""TensorFlow in the tests' own process, where hundreds of graphs are converted that are known to be sound."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tf_requant import errors
from tf_requant.io import tf1

# Helpers that import TensorFlow are no place to look for doctests where it is missing; the tests skip by themselves.
collect_ignore = [] if find_spec("tensorflow") else ["nets.py", "sound.py", "unsound.py"]


@pytest.fixture(scope="module")
def in_process():
    """Answers a graph's requests without the seconds that a process of its own takes to import TensorFlow."""
    from tf_requant.io.tf1 import worker

    def ask(folder: Path, request: dict) -> dict:
        (folder / "request.json").write_text(json.dumps(request))
        worker.main(folder)
        reply = json.loads((folder / "reply.json").read_text())
        if "error" in reply:
            raise getattr(errors, reply["error"])(reply["sentence"])
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf1, "_ask", ask)
        yield
