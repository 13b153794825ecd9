"""The command line reference: one page a command, written from its argparse parser."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator

from gpt2fast.cli.dispatch import COMMANDS
from gpt2fast.cli.parser import build_parser

_WIDTH = 88


def command_pages() -> dict[str, str]:
    """Markdown of each command's page, by the command's name, in the order of ``--help``."""
    modules = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in COMMANDS}
    _, subparsers = build_parser(modules)
    return {name: _page(subparsers.choices[name]) for name in COMMANDS}


def summaries() -> dict[str, str]:
    """The one line that ``gpt2fast --help`` says of each command."""
    modules = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in COMMANDS}
    _, subparsers = build_parser(modules)
    return {each.dest: each.help or "" for each in subparsers._choices_actions}


def _page(parser: argparse.ArgumentParser) -> str:
    parts = [f"# {parser.prog}", _escaped(parser.description or "")]
    examples = _examples(parser)
    if examples:
        parts += ["## Examples", f"```sh\n{examples}\n```"]
    for group in parser._action_groups:
        shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS]
        if shown:
            title = "Arguments" if group.title == "positional arguments" else str(group.title)
            parts += [f"## {title[0].upper()}{title[1:]}"]
            parts += [entry for each in shown for entry in _entry(parser, each)]
    return "\n\n".join(parts) + "\n"


def _examples(parser: argparse.ArgumentParser) -> str:
    lines = (parser.epilog or "").splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines if line.startswith("  "))


def _entry(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    """One argument as an entry of a definition list."""
    formatter = argparse.HelpFormatter(parser.prog, width=_WIDTH)
    if action.option_strings:
        default = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        values = "" if action.nargs == 0 else formatter._format_args(action, default)
        names = ", ".join(action.option_strings)
        name = f"{names} {values}".strip()
    else:
        name = str(action.metavar or action.dest)
    text = " ".join(formatter._expand_help(action).split())
    yield f"`{name}`\n:   {_escaped(text)}"


def _escaped(text: str) -> str:
    """``text`` for Markdown: help is plain text, but option names in it are shown as code."""
    safe = re.sub(r"([\\`*_\[\]#|])", r"\\\1", text).replace("<", "&lt;")
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", safe)
