"""What is in `deploy/`: the unit, the compose file and the image, as far as they can be checked without Docker."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import get_token
from ruamel.yaml import YAML

from plumbline.data.annotation_hooks import SECRETS, NotConfigured, admit
from plumbline.errors import UserError
from plumbline.evaluation.judging.names import ENDPOINT, require_one_host
from plumbline.lm.engines.address import vllm_addresses
from testing.fake_project import CHECKOUT

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


def test_the_units_user_may_write_into_the_checkout_before_it_starts() -> None:
    text = (DEPLOY / "plumbline.service").read_text(encoding="utf-8")
    user, folder, secrets = (re.search(f"^{key}=-?(.+)$", text, re.MULTILINE)[1]
                             for key in ("User", "WorkingDirectory", "EnvironmentFile"))
    said = (CHECKOUT / "docs/always-on.md").read_text(encoding="utf-8")
    steps = [said.index(step) for step in (f"sudo useradd --system --home {folder} {user}",
                                           f"sudo make -C {folder} install ", f"sudo chown -R {user}: {folder}\n",
                                           f"sudo install -m 600 /dev/null {secrets}", "systemctl enable --now")]
    assert steps == sorted(steps)
    assert re.search(r"^install: \$\(INSTALLED\)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)


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


def test_every_variable_that_the_documents_name_reaches_the_containers() -> None:
    texts = "\n".join(text.read_text(encoding="utf-8") for text in (
        CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")))
    named = set(re.findall(r"(?:PLUMBLINE|HF)_[A-Z_]+", texts))
    # In the image, of this file, set by it, and of launchers that start an agent on each machine.
    elsewhere = {"PLUMBLINE_HOME", "PLUMBLINE_ROOT", "PLUMBLINE_IMAGE", "PLUMBLINE_NODE", "PLUMBLINE_FIRST_NODE"}
    for service in ("worker", "pages"):
        handed_on = SERVICES[service]["environment"]
        assert named - elsewhere <= set(handed_on)
        assert all(value == f"${{{name}:-}}" for name, value in handed_on.items()
                   if name in named and name != "PLUMBLINE_FEEDBACK_URL")


def test_a_variable_that_nobody_filled_in_is_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["worker"]["environment"].items():
        if str(value).endswith(":-}"):
            monkeypatch.setenv(name, "")
    for tool in SECRETS:
        with pytest.raises(NotConfigured):
            admit(tool, {})
    require_one_host({f"https://{host}.example/v1#model": ENDPOINT for host in "ab"})  # no key is sent to either
    assert get_token() is None
    with pytest.raises(UserError, match="found none"):
        vllm_addresses()


def test_the_checkouts_parameters_hold_in_the_containers() -> None:
    assert "../params.yaml:/plumbline/params.yaml:ro" in SERVICES["worker"]["volumes"]


def test_only_what_speaks_tls_is_open_to_other_machines() -> None:
    opened = [(name, port) for name, service in SERVICES.items() for port in service.get("ports", [])]
    assert {name for name, port in opened if not port.startswith("127.0.0.1:")} == {"tls"}
    assert SERVICES["tls"]["profiles"] == ["tls"], "and only where somebody asks for it"


def test_images_are_of_a_version() -> None:
    for name, service in SERVICES.items():
        image, _, tag = service["image"].removeprefix("${PLUMBLINE_IMAGE:-").removesuffix("}").rpartition(":")
        assert (image and re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag)) or tag == "plumbline", name
    assert re.search(r"^FROM python:3\.11\.\d+-", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_no_password_is_in_an_address_or_a_command() -> None:
    for name, service in SERVICES.items():
        for text in (*words(service.get("command", "")), *words(service.get("environment", {}))):
            alone = re.fullmatch(r"\w+|\$\{\w+:[?-]\}", text)
            assert alone or not ("PASSWORD" in text or "KEY:" in text), f"{name}: {text}"


def test_prefect_asks_for_the_key_that_the_others_have() -> None:
    key = SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    assert key == "${PREFECT_KEY:?}"
    for name in ("worker", "pages"):
        assert SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"] == key
    assert "plumbline.service.prefect_server:create_app" in SERVICES["prefect"]["command"]
    assert SERVICES["prefect"]["hostname"] == "prefect", "the name by which the others ask for it"


def test_every_service_that_stays_says_how_it_is() -> None:
    staying = {name for name, service in SERVICES.items() if service["restart"] == "unless-stopped"}
    assert staying == {"postgres", "storage", "prefect", "mlflow", "worker", "pages", "tls"}
    assert all("healthcheck" in SERVICES[name] for name in staying)


def test_docker_takes_it() -> None:
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False) \
        if shutil.which("docker") else None
    if known is None or known.returncode:
        pytest.skip("no docker compose")
    needed = {"POSTGRES_PASSWORD": "x", "STORAGE_PASSWORD": "y", "PREFECT_KEY": "z"}
    done = subprocess.run(["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "-q"], check=False,
                          capture_output=True, text=True, env=needed)
    assert done.returncode == 0, done.stderr


def test_what_the_image_copies_is_there_and_small() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (CHECKOUT / source).exists(), source


def patterns(file: str) -> list[str]:
    lines = (CHECKOUT / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", "!"))]


def test_the_image_holds_nothing_that_git_ignores() -> None:
    """Of which some are passwords; but for compute.yaml, which a flow that runs in the image reads there."""
    docker = {one.rstrip("/") for one in patterns(".dockerignore")}  # which tells no folders from files
    left = set()
    for folder, file in (("", ".gitignore"), (".dvc/", ".dvc/.gitignore")):
        for one in patterns(file):
            path = folder + one.strip("/") if "/" in one.rstrip("/") else f"**/{one.rstrip('/')}"
            if not {path, f"**/{Path(path).name}"} & docker:
                left.add(path)
    assert left == {"compute.yaml"}
    assert {".git", "**/.env", "data/batches"} <= docker


@pytest.mark.parametrize("service", ["worker", "pages", "mlflow", "prefect"])
def test_commands_exist(service: str) -> None:
    command = SERVICES[service]["command"].split()
    if command[2] == "uvicorn":
        module, _, name = command[4].partition(":")
        assert f"def {name}(" in (CHECKOUT / "plumbline/service/prefect_guard.py").read_text()
        assert name in (CHECKOUT / f"{module.replace('.', '/')}.py").read_text()
    elif command[0] == "python":
        assert (CHECKOUT / f"{command[2].replace('.', '/')}.py").exists()
    else:
        assert shutil.which(command[0], path=str(Path(sys.executable).parent))
