"""compose.yaml: valid by the schema of compose files, closed to others, and in step with the program and the chart."""

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from service.settings import NOT_SETTINGS, Settings
from tests.support.programs import TOOLS, parse_command, program_or_skip
from tools.image_check import LATE, ROLES

ROOT = Path(__file__).parents[3]
SCHEMA = TOOLS.parent / "share" / "compose-spec.json"
OURS = ("migrate", "serve", "worker", "relay", "ingest", "reconcile")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_images_have_the_version_of_the_program(compose):
    ours = {s["image"] for s in compose["services"].values() if "build" in s}
    assert {image.rpartition(":")[2] for image in ours} == {version("alertprod")}


def test_each_role_runs_in_an_image_that_has_what_it_loads(compose):
    """Pages show pixels: `make image-check` loads in each image what its roles load late."""
    for target, roles in ROLES.items():
        for role in roles:
            assert compose["services"][role]["build"]["target"] == target, role
    chart = (ROOT / "helm/alertprod/templates/deployments.yaml").read_text(encoding="utf-8")
    (pixels,) = re.findall(r'"pixels" \(has \$role \(list (.*?)\)\)', chart)
    assert set(pixels.replace('"', "").split()) == set(ROLES["worker"])
    assert {"service.processing.looking.viewer_process", "service.pages.objects.periods"} <= set(LATE["worker"])


def test_it_is_valid(compose):
    jsonschema = pytest.importorskip("jsonschema")
    if not SCHEMA.exists():
        pytest.skip("no schema of compose files here: 'make programs' fetches it")
    valid = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    valid.validate(compose)
    broken = {**compose, "services": {**compose["services"], "x": {"imagee": "y"}}}
    with pytest.raises(jsonschema.ValidationError):
        valid.validate(broken)


def test_ports_are_open_to_this_machine_alone(compose):
    ports = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert len(ports) >= 5
    assert all(p.startswith("127.0.0.1:") for p in ports)


def test_our_containers_are_closed(compose):
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] and service["user"] == "10001:10001" and service["cap_drop"] == ["ALL"], name
        written = [v for k, v in service["environment"].items() if k.endswith("_DIR")]
        assert all(v.startswith("/data/") for v in written)


def test_no_secret_is_in_it(compose):
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for service in compose["services"].values():
        environment = service.get("environment", {})
        secret = {k for k in environment if re.search("PASSWORD|TOKEN|SECRET|_URI", k)}
        assert all(environment[k].startswith("/run/secrets/") for k in secret), secret
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()
    assert "://alertprod:" not in text


def test_settings_commands_and_files_are_there(compose):
    known = {f"ALERTPROD_{n.upper()}" for n in Settings.model_fields} | NOT_SETTINGS
    for name in OURS:
        service = compose["services"][name]
        assert {k for k in service["environment"] if k.startswith("ALERTPROD_")} - known == set()
        parse_command(service["command"])
    mounts = [
        v
        for s in compose["services"].values()
        for v in s.get("volumes", [])
        if v.startswith("./") and v != "./data:/data"
    ]
    assert all((ROOT / v.split(":")[0]).exists() for v in mounts)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for service in compose["services"].values():
        if "build" in service:
            assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", dockerfile, re.MULTILINE)


def test_a_worker_has_time_and_memory_for_its_jobs(compose):
    worker = compose["services"]["worker"]
    seconds = 60 * int(worker["stop_grace_period"].removesuffix("m"))
    assert seconds > float(worker["environment"]["ALERTPROD_DRAIN_S"]) >= Settings.model_fields["job_timeout_s"].default
    jobs = int(worker["environment"]["ALERTPROD_WORKERS"]) * int(worker["environment"]["ALERTPROD_JOB_MEMORY_GB"])
    assert int(worker["mem_limit"].removesuffix("g")) > jobs


def test_prometheus_takes_its_configuration(tmp_path):
    config = yaml.safe_load((ROOT / "deploy" / "compose" / "prometheus.yaml").read_text(encoding="utf-8"))
    config["rule_files"] = [str(ROOT / "helm" / "alertprod" / "files" / "alerts.yaml")]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [program_or_skip("promtool"), "check", "config", str(tmp_path / "p.yaml")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_secrets_are_made_once(tmp_path):
    place = tmp_path / "deploy" / "compose"
    place.mkdir(parents=True)
    script = place / "secrets.sh"
    script.write_text((ROOT / "deploy" / "compose" / "secrets.sh").read_text())
    for _ in range(2):
        subprocess.run(["bash", str(script)], check=True, capture_output=True, timeout=30)
    made = {p.name: p.read_text() for p in (place / "secrets").iterdir()}
    assert re.fullmatch(r"[0-9a-f]{64}", made["token"])
    assert made["database_uri"] == f"postgresql://alertprod:{made['database_password']}@postgres:5432/alertprod"
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert {Path(s["file"]).name for s in compose["secrets"].values()} <= made.keys()
