"""`tf_requant VERB [flags]`: parses, dispatches, and turns errors into exit codes.

0 done, 1 a bug (with its traceback), 2 bad usage or bad input, 3 a validation threshold was missed.
absl's own `app.run` exits 1 on a wrong flag and on --help, so flags are parsed here.
"""

import importlib
import logging as standard_logging
import sys
import traceback
from collections.abc import Callable
from types import ModuleType

from absl import flags as absl_flags
from absl import logging

from tf_requant.errors import RequantError, ValidationFailed
from tf_requant.version import __version__

DONE, BUG, BAD_INPUT, THRESHOLD = 0, 1, 2, 3

VERBS = ("requantize", "inspect", "validate", "simulate", "calibrate", "export", "batch", "targets")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: the arguments behind the program's name; those of this process by default.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _run(arguments))


def guarded(work: Callable[[], int | None]) -> int:
    """Runs it and turns what it raises into an exit code, with the sentences on stderr.

    Args:
        work: returns an exit code; None is 0.
    """
    try:
        return work() or DONE
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left early, as `head` does
        return DONE
    except KeyboardInterrupt:
        print("tf_requant: interrupted", file=sys.stderr)
        return BAD_INPUT
    except ValidationFailed as error:
        print(error, file=sys.stderr)
        return THRESHOLD
    except RequantError as error:
        print(f"tf_requant: {error}", file=sys.stderr)
        return BAD_INPUT
    except Exception:
        traceback.print_exc()
        print("tf_requant: this is a bug; please report it with the lines above", file=sys.stderr)
        return BUG


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "-help", "help"):
        print(_overview())
        return DONE if arguments else BAD_INPUT
    if arguments[0] == "--version":
        print(__version__)
        return DONE
    name, rest = arguments[0], arguments[1:]
    if name not in VERBS:
        print(f"tf_requant: {name!r} is not a verb; verbs are: {', '.join(VERBS)}", file=sys.stderr)
        return BAD_INPUT
    verb = importlib.import_module(f"tf_requant.cli.{name}")
    values = absl_flags.FlagValues()
    absl_flags.DEFINE_integer("verbosity", 0, "Log level: -1 warnings only, 0 progress, 1 debugging.", flag_values=values)
    verb.define(values)
    if any(a in ("--help", "-h", "-help", "--helpfull", "--helpshort") for a in rest):
        print(_help(name, verb, values))
        return DONE
    hands_on = getattr(verb, "HANDS_ON", False)
    try:
        extra = values([f"tf_requant {name}", *rest], known_only=hands_on)[1:]
    except absl_flags.Error as error:
        print(f"tf_requant {name}: {error}; see tf_requant {name} --help", file=sys.stderr)
        return BAD_INPUT
    if extra and not hands_on:
        print(f"tf_requant {name}: {extra[0]!r} is not a flag; see tf_requant {name} --help", file=sys.stderr)
        return BAD_INPUT
    standard_logging.root.setLevel(standard_logging.WARNING)
    logging.use_absl_handler()
    logging.set_verbosity(values.verbosity)
    absl_flags.FLAGS.mark_as_parsed()  # absl warns of logging before its own global flags were parsed
    code: int = verb.run(values, extra) if hands_on else verb.run(values)
    return code


def _overview() -> str:
    lines = ["usage: tf_requant VERB [flags]", ""]
    for name in VERBS:
        verb = importlib.import_module(f"tf_requant.cli.{name}")
        lines += [f"  {name:<11} {verb.SUMMARY}", f"  {'':<11}   {verb.EXAMPLE}"]
    lines += ["", "tf_requant VERB --help lists a verb's flags; --flagfile=FILE reads flags from a file."]
    return "\n".join(lines)


def _help(name: str, verb: ModuleType, values: absl_flags.FlagValues) -> str:
    lines = [f"tf_requant {name}: {verb.SUMMARY}", "", f"example: {verb.EXAMPLE}", "", "flags:"]
    for flag in sorted(values):
        definition = values[flag]
        default = "" if definition.default in (None, [], "") else f" (default: {definition.default})"
        lines.append(f"  --{flag}: {definition.help}{default}")
    lines.append("  --flagfile: a file with one flag a line.")
    return "\n".join(lines)
