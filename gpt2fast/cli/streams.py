"""Standard input, output and error, in whatever state the caller left them."""

from __future__ import annotations

import os
import re
import sys

from gpt2fast.errors import OptionError
from gpt2fast.terminal import escape_for
from gpt2fast.terminal import say as say

STANDARD_OUTPUT = "standard output"  # the file name in an OSError


def prepare() -> None:
    """Make the streams safe to use: closed ones, and encodings that lack a character."""
    for descriptor in range(3):
        if not _is_open(descriptor):
            # The next file opened would get this number, and be taken for the stream.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (stays open as long as the process)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def write(text: str) -> None:
    """Print ``text`` at once, control characters escaped where a terminal would obey them. An
    OSError names standard output as the file."""
    try:
        sys.stdout.write(escape_for(sys.stdout, text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


def abandon_output() -> None:
    """Send what is still buffered nowhere, else the interpreter complains of it while exiting."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def can_hold_unicode() -> bool:
    """Whether standard output is in an encoding of all characters."""
    return "utf" in (sys.stdout.encoding or "utf-8").lower()


def read_prompt(prompt: str | None) -> str:
    """``prompt``, or standard input where it is None or "-". Raises OptionError if not text."""
    if prompt is None or prompt == "-":
        if sys.stdin is None:
            raise OptionError("standard input is closed; give the prompt as an argument")
        if sys.stdin.isatty():
            say("gpt2fast: type the prompt; end it with Ctrl-D")
        try:
            prompt = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise OptionError(f"the prompt on standard input is not text: {error}") from error
        prompt = _as_utf8(prompt, "the prompt on standard input")
        if not prompt:  # perhaps what should have written to the pipe has failed
            say("gpt2fast: standard input is empty; the text begins with the model's first token")
        return prompt
    return _as_utf8(prompt, "the prompt")


def _as_utf8(text: str, name: str) -> str:
    # Python passes bytes that the locale's encoding lacks through as U+DC80 to U+DCFF (PEP 383).
    # In the C locale these are all of a character that is not ASCII.
    found = re.search(r"[\udc80-\udcff]", text)
    if not found:
        return text
    try:
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise OptionError(
            f"{name} is not valid UTF-8: byte 0x{ord(found.group()) - 0xDC00:02x} after "
            f"{found.start()} characters; convert it to UTF-8"
        ) from None
