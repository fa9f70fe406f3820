"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from absl import logging
from tqdm import tqdm

_SECONDS = 5.0
"""Between two log lines."""


@contextmanager
def progress(what: str, unit: str = "sample") -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be called with (done, in all); where `done` falls back, the next part of the work began."""
    if sys.stderr.isatty():
        with tqdm(total=0, unit=unit, leave=False) as bar:

            def draw(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield draw
        return
    last = time.monotonic()

    def log(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            logging.info("%s: %d of %d %ss", what, done, total, unit)

    yield log
