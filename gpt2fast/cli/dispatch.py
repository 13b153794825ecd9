"""From the arguments to a subcommand, and from what it raises to one line and an exit code."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from functools import partial

from gpt2fast.cli import EXIT_INTERRUPTED, streams
from gpt2fast.cli.parser import parse_arguments
from gpt2fast.errors import GPT2FastError
from gpt2fast.flag_names import in_flags

COMMANDS = (
    "generate",
    "info",
    "quantize",
    "eval",
    "bench",
    "train",
    "distill",
    "compress",
    "export",
)

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def run_command(argv: Sequence[str] | None) -> int:
    """Run one command; returns its exit code. What is not a user's mistake keeps its traceback."""
    streams.prepare()
    if sys.stdout is None:
        return _fail("standard output is closed; redirect it to a file or /dev/null", EXIT_FAILED)
    flags: dict[str, str] = {}  # of the command, once it is known
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, flags)
        try:
            return _run(argv, flags)
        except GPT2FastError as error:
            return _fail(in_flags(str(error), flags), EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            streams.abandon_output()
            return EXIT_BROKEN_PIPE
        except OSError as error:  # no space left, no permission: the machine's fault, not a bug
            if error.filename == streams.STANDARD_OUTPUT:
                streams.abandon_output()
            return _fail(_describe(error), EXIT_FAILED)
        except (MemoryError, ImportError) as error:
            if isinstance(error, ImportError) and not _is_memory(error):
                raise
            return _fail(
                "memory ran out; free some, or use a smaller model, fewer --kv-cache-tokens or a "
                "shorter prompt",
                EXIT_FAILED,
            )


def _run(argv: Sequence[str] | None, flags: dict[str, str]) -> int:
    modules = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in COMMANDS}
    try:
        args, found = parse_arguments(modules, argv)
    except SystemExit:  # --help and --version print, too
        streams.write("")
        raise
    flags.update(found)
    code: int = modules[args.command].run(args)
    streams.write("")  # a closed pipe or full disk should be noticed here, not at interpreter exit
    return code


def _is_memory(error: ImportError) -> bool:
    """Whether a shared library could not be loaded because memory ran out."""
    return any(sign in str(error) for sign in ("failed to map", "annot allocate memory"))


def _describe(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"


def _show_warning(flags: dict[str, str], message: Warning | str, *_: object) -> None:
    streams.say(f"gpt2fast: warning: {' '.join(in_flags(str(message), flags).split())}")


def _fail(message: str, code: int) -> int:
    streams.say(f"gpt2fast: error: {' '.join(message.split())}")
    return code
