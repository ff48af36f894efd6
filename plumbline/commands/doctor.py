"""The command `plumbline doctor`."""

import typer
from rich.console import Console

from plumbline.commands.output import AsJson, command_group, entered_home, examples, print_json
from plumbline.errors import UserError

doctor_app = command_group()


@doctor_app.command(epilog=examples("plumbline doctor", "plumbline doctor --json"))
def doctor(as_json: AsJson = False) -> None:
    """Check versions, known broken combinations, devices, disk, stores and the hub."""
    from plumbline.commands.machine import examine, show_findings

    findings = examine(entered_home())
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        show_findings(Console(), findings)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(UserError.exit_code)
