"""A command of the command line in the tests' own process, which has MLflow and DVC imported already.

Importing them is most of what a command costs. What a process of its own shows (a run, signals, what is imported when,
several at once) is for `testing.fake_project.plumbline`.
"""

import contextlib
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from subprocess import CompletedProcess

from plumbline.commands.main import main
from testing.fake_project import environment


def command(root: Path, *arguments: str, **more: str) -> "CompletedProcess[str]":
    """Do what `plumbline ARGUMENTS` does in a folder; environment, folder and signal handlers are put back."""
    before, argv, handler = dict(os.environ), sys.argv, signal.getsignal(signal.SIGTERM)
    out, errors = io.StringIO(), io.StringIO()
    _set_environment(environment(root, **more))
    sys.argv = ["plumbline", *arguments]
    try:
        with contextlib.chdir(root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = _status()
    finally:
        _set_environment(before)
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return CompletedProcess(sys.argv, status, out.getvalue(), errors.getvalue())


def _status() -> int:
    """Run `main`, and return what its process would exit with."""
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
