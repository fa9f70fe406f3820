"""One run of the pipeline in a process of its own, so that the process that waits for it survives whatever the runner does.

`python -m tf_requant.batch.one_pass FILE`, where the file holds the batch, the places of its jobs and Beam's flags.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from absl import flags, logging

WORKER_DIED = 70
"""Exit code: a worker process is gone, for which Beam's own runner would wait forever."""


def main(path: str) -> None:
    """Runs the pipeline that a file describes."""
    from tf_requant.batch.pipeline import run
    from tf_requant.batch.work import Work

    request = json.loads(Path(path).read_bytes())
    threading.Thread(target=_outlive_nobody, args=(request["parent"],), daemon=True).start()
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(request["verbosity"])
    threading.excepthook = _died
    places = [(group, offset) for group, offset in request["places"]]
    run(Work(**request["work"]), places, request["flags"])


def _outlive_nobody(parent: int) -> None:
    """Ends this process and the workers that it started when the process that waits for it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _died(arguments: Any) -> None:
    """A thread of the runner ended with an error: it is the one that waits for a worker process."""
    traceback.print_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    if "Worker subprocess exited" in str(arguments.exc_value):
        sys.stderr.flush()
        os._exit(WORKER_DIED)


if __name__ == "__main__":
    main(sys.argv[1])
