"""The command line: one file of this folder for each group of commands.

Exit status: 0 done, 1 a bug or a stage that broke, 2 something to put right, 3 a gate said no, 130 cancelled.
What is slow to import is imported inside the commands, so that `plumbline --help` and a mistyped option
answer at once.
"""

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from plumbline.commands.data import data_app
from plumbline.commands.doctor import doctor_app
from plumbline.commands.feedback import feedback_app
from plumbline.commands.models import models_app
from plumbline.commands.output import command_group
from plumbline.commands.runs import runs_app
from plumbline.commands.service import service_app
from plumbline.commands.storage import storage_app
from plumbline.errors import UserError, as_user_error
from plumbline.project.home import HOME

CANCELLED = 130
IN_THE_WAY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
"""How the system says that a file or folder cannot be made or read where it is."""
KEPT = "Cancelled. Finished stages are kept: the same command goes on from there."

app = command_group("Keep a language model aligned with human preferences, and know which data made which "
                    "model.")
for group in (runs_app, models_app, storage_app, service_app, doctor_app):
    app.add_typer(group)
app.add_typer(data_app, name="data")
app.add_typer(feedback_app, name="feedback")


def main() -> None:
    """Run the command line; a user's mistake is one paragraph, not a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except SystemExit as error:
        if error.code == CANCELLED:  # typer's answer to Ctrl-C
            _leave(KEPT, CANCELLED)
        raise
    except BaseException as error:
        # Prefect raises its own exception for SIGTERM during a flow.
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":
            _leave(KEPT, CANCELLED)
        _explain(error)
        raise


def _explain(error: BaseException) -> None:
    """Leave with a message if the error has one for the user; return if it is a bug."""
    if isinstance(error, UserError):
        _leave(str(error), error.exit_code)
    from plumbline.runs.stage_process import StageFailed
    from plumbline.tracking.store import broken_store

    if isinstance(error, StageFailed):
        _leave(str(error), 1)
    problem = as_user_error(error) or broken_store(os.environ.get("MLFLOW_TRACKING_URI", ""), error)
    if problem:
        _leave(str(problem), problem.exit_code)
    if isinstance(error, OSError) and error.errno in IN_THE_WAY and error.filename:
        _leave(f"{error.filename} cannot be used: {error.strerror}. See whose it is, and that no file stands "
               f"where a folder is to be; {HOME} names another place for what Plumbline keeps.",
               UserError.exit_code)


def _leave(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(status) from None


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt

