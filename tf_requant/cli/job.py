"""What a job of one's own calls in place of absl's `app.run`, so that its exit codes are those of `tf_requant`.

The job defines global absl flags and ends in `job.run(main)`; `examples/` has several.
"""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, logging
from absl import flags as absl_flags

from tf_requant.cli.main import BAD_INPUT, DONE, guarded


def run(main: Callable[[], int | None], argv: list[str] | None = None) -> NoReturn:
    """Parses the global absl flags, runs the job, and ends the process.

    0 done, 1 a bug (with its traceback), 2 a wrong flag or a `RequantError`, 3 a `ValidationFailed`; `--help` exits 0.
    absl's own flags work: `--flagfile`, `--verbosity` (warnings and errors unless raised), `--only_check_args`.

    Args:
        main: the job; returns an exit code, None for 0.
        argv: the program's name and its arguments; those of this process by default.
    """
    app.run(lambda extra: sys.exit(guarded(lambda: _checked(main, extra))), argv, flags_parser=_parsed)
    raise AssertionError("app.run does not return")  # it ends the process


def _checked(main: Callable[[], int | None], extra: list[str]) -> int | None:
    if len(extra) > 1:
        print(f"{extra[0]}: {extra[1]!r} is not a flag; see --help", file=sys.stderr)
        return BAD_INPUT
    return main()


def _parsed(argv: list[str]) -> list[str]:
    """What is no flag; ends the process where absl would, with other codes."""
    try:
        extra = list(absl_flags.FLAGS(argv))
    except absl_flags.Error as error:
        print(f"{argv[0]}: {error}; see --help", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except SystemExit:  # only --help and its kin end the parsing so, with 1
        sys.exit(DONE)
    if absl_flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # absl's default is INFO once app.run has started
    return extra
