"""A hook of mkdocs: pages that have their source elsewhere; the check that none needs a network.

CHANGELOG.md and CONTRIBUTING.md lie at the root of the repository, where GitHub and pip look for
them; the command line reference is written from the parsers.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the parsers are read from the checkout, which need not be installed

from command_reference import command_pages, summaries  # noqa: E402

AT_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
COMMAND_LINE = "reference/cli"
LOADED = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(https?:[^"'> ]+)""")
LINKED = re.compile(r"""<link[^>]*\shref=["']?(https?:[^"'> ]+)""")


def on_config(config: Any) -> Any:
    """Commands are listed in the navigation behind the overview that mkdocs.yml names."""
    pages = [f"{COMMAND_LINE}/{name}.md" for name in command_pages()]
    assert _extend(config.nav, f"{COMMAND_LINE}/index.md", pages)
    return config


def _extend(items: list[Any], after: str, pages: list[str]) -> bool:
    if after in items:
        items += pages
        return True
    values = [value for item in items if isinstance(item, dict) for value in item.values()]
    return any(_extend(value, after, pages) for value in values if isinstance(value, list))


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages."""
    pages = {f"{COMMAND_LINE}/{name}.md": text for name, text in command_pages().items()}
    for page, source in AT_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        pages[page] = re.sub(r"\]\((?:docs/)([^)]+)\)", r"](\1)", text)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in the list of commands."""
    if page.file.src_uri != f"{COMMAND_LINE}/index.md":
        return markdown
    lines = [f"| [`{name}`]({name}.md) | {text} |" for name, text in summaries().items()]
    return markdown.replace("{{ commands }}", "\n".join(["| | |", "|---|---|", *lines]))


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    found = LOADED.findall(output)
    found += [each for each in LINKED.findall(output) if not each.endswith(".html")]
    if found:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(found)}; the site works offline")
    return output
