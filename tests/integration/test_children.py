"""Child processes load our modules whatever lies in the working directory, and say why they could not start."""

import subprocess
import time

import pytest

from service.errors import JobCrashed
from service.settings import Settings
from service.subprocesses.children import child_environment, program, without_secrets
from service.workers.job_process import JobProcess
from service.workers.supervisor import START_ATTEMPTS, Worker
from tasks.errors import TransientError

SECRET = "s3cret%2Fpassword"


@pytest.fixture
def hijacked(tmp_path, monkeypatch):
    """A working directory with names of our rooms in it, all of which raise."""
    (tmp_path / "alerts").mkdir()
    for name in ("alerts/__init__.py", "tasks.py", "service.py", "exposure.py", "calendar.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder, uri="postgresql://alertprod@127.0.0.1:9/none", **more):
    """Settings whose database has a password, whether it asks for one or not."""
    uri = uri.replace("://alertprod@", f"://alertprod:{SECRET}@")
    assert SECRET in uri
    return Settings(database_uri=uri, template_dir=folder, upload_dir=folder, archive_dir=str(folder), **more)


def test_commands_and_jobs_start_in_a_folder_with_modules_of_our_names(hijacked):
    done = subprocess.run(
        program("service.commands.main", "--help"), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    job = JobProcess(settings(hijacked))
    assert job.process.poll() is None
    job.kill()
    code = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-m', 'service.commands.main', '--help']).returncode)"
    (hijacked / "grand.py").write_text(code)
    command, environment = [*program("service.commands.main")[:2], "grand.py"], child_environment(settings(hijacked))
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=60)
    assert done.returncode == 0  # what a child starts in its turn


def test_a_job_that_dies_at_its_start_says_why_and_the_worker_ends(tmp_path, monkeypatch, database):
    """A broken installation: what the pixel code loads first cannot be. The worker itself loads none of it."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "astropy.py").write_text(f"raise ImportError('libGL.so.1 is missing, by postgresql://a:{SECRET}@h/d')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    done = subprocess.run(
        program("service.commands.main", "worker"),
        env=child_environment(settings(tmp_path, database.uri, workers=1)),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    last = done.stderr[done.stderr.rindex("alertprod: job_crashed:") :]
    assert f"{START_ATTEMPTS} job processes in a row did not start" in last
    assert "libGL.so.1 is missing" in last
    assert SECRET not in last


def test_a_setting_that_the_job_refuses_stops_the_worker_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr("service.workers.supervisor.START_ATTEMPTS", 1)
    wrong = tmp_path / "positions.csv"
    wrong.write_text("name,x\nhost,1\n")
    work = Worker(settings(tmp_path, workers=1, forced_positions=wrong))
    start = time.monotonic()
    with pytest.raises(JobCrashed, match=r"positions.*positions\.csv"):
        work.run()
    assert time.monotonic() - start < 90


def test_what_may_get_better_is_no_death(tmp_path, monkeypatch):
    """A job whose start meets something that is away for a while is started again, without an end."""
    broken = tmp_path / "broken"
    (broken / "service_process").mkdir(parents=True)
    code = (
        "import sys, types\nfrom tasks.errors import TransientError\n"
        "fake = types.ModuleType('service.processing.visit')\n"
        "def Processor(settings): raise TransientError('the store is away: ' + settings.database())\n"
        "fake.Processor = Processor\nsys.modules['service.processing.visit'] = fake\n"
    )
    (broken / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(broken))
    with pytest.raises(TransientError, match="the store is away") as caught:
        JobProcess(settings(tmp_path))
    assert not isinstance(caught.value, JobCrashed)
    assert SECRET not in str(caught.value)


def test_secrets_are_taken_out_of_any_text():
    one = Settings(
        database_uri=f"postgresql://u:{SECRET}@h:5432/d",
        schema_registry="http://me:registry-word@r/",
        kafka_client={"sasl.password": "kafka-word", "sasl.username": "relay"},
    )
    text = f"no {one.database()}; password s3cret/password, {SECRET}; registry-word; kafka-word; relay; port 5432"
    assert (
        without_secrets(text, one) == "no ********; password ********, ********; ********; ********; relay; port 5432"
    )
