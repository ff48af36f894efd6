"""What is in `deploy/`: the unit, the compose file and the image, as far as they can be checked without Docker."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_project import CHECKOUT
from ruamel.yaml import YAML

DEPLOY = CHECKOUT / "deploy"
COMPOSE = YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def words(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner)
    else:
        yield str(value)


def test_the_unit_is_valid(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze")
    text = (DEPLOY / "plumbline.service").read_text(encoding="utf-8")
    unit = tmp_path / "plumbline.service"
    unit.write_text(text.replace("/srv/plumbline/.venv/bin/plumbline", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "plumbline.service" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
    # Exit status 2 is for a person: starting again would not help.
    assert "RestartPreventExitStatus=2" in text


def test_services_that_are_waited_for_exist_and_say_how_they_are() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], other


def test_every_named_volume_and_file_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"


def test_every_variable_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", " ".join(words(COMPOSE)))) - {"PLUMBLINE_IMAGE"}
    offered = {line.split("=")[0] for line in (DEPLOY / "env.example").read_text().splitlines() if "=" in line
               and not line.startswith("#")}
    assert used == offered


def test_only_the_pages_are_open_to_other_machines() -> None:
    opened = {name: port for name, service in SERVICES.items() for port in service.get("ports", [])}
    assert [name for name, port in opened.items() if not port.startswith("127.0.0.1:")] == ["pages"]


def test_docker_takes_it() -> None:
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False) \
        if shutil.which("docker") else None
    if known is None or known.returncode:
        pytest.skip("no docker compose")
    done = subprocess.run(["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "-q"], check=False,
                          capture_output=True, text=True, env={"POSTGRES_PASSWORD": "x", "STORAGE_PASSWORD": "y"})
    assert done.returncode == 0, done.stderr


def test_what_the_image_copies_is_there_and_small() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (CHECKOUT / source).exists(), source
    ignored = (CHECKOUT / ".dockerignore").read_text().split()
    assert {".venv", ".git", ".plumbline", "runs"} <= set(ignored)


@pytest.mark.parametrize("service", ["worker", "pages", "mlflow", "prefect"])
def test_commands_exist(service: str) -> None:
    command = SERVICES[service]["command"].split()
    if command[0] == "python":
        assert (CHECKOUT / f"{command[2].replace('.', '/')}.py").exists()
    else:
        assert shutil.which(command[0], path=str(Path(sys.executable).parent))
