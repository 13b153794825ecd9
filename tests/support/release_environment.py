"""An environment over the one that runs this: what is installed there stands before what is here.

    python tests/support/release_environment.py FOLDER [--upgrade] REQUIREMENT ...

Only what differs is downloaded, so that the tests can be tried on another release of transformers,
or on the newest of everything, in seconds. Prints the interpreter to run them with.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def make_environment(folder: Path, requirements: list[str], *, upgrade: bool = False) -> Path:
    """The interpreter of an environment in ``folder`` with ``requirements``. Raises
    CalledProcessError where pip finds none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
        under = sysconfig.get_path("purelib")
        own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(own) / "under.pth").write_text(f"import site; site.addsitedir({under!r})\n")
    options = ["--upgrade"] if upgrade else []
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    subprocess.run([*pip, *options, *requirements], check=True)
    return python


if __name__ == "__main__":
    given = sys.argv[1:]
    upgrade = "--upgrade" in given
    folder, *wanted = [each for each in given if each != "--upgrade"]
    print(make_environment(Path(folder).resolve(), wanted, upgrade=upgrade))
