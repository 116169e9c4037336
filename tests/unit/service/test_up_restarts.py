"""Roles of ``alertprod up`` that a signal ended are started again, some times."""

import os
import signal
import subprocess
import sys
from collections import Counter

from service.local.up import MOST_RESTARTS, _start_again


class Roles:
    """Processes that wait; killed and started by name."""

    def __init__(self):
        self.processes = {}
        self.start("ingest")

    def start(self, role):
        code = "import sys; print(1, flush=True); sys.stdin.read()"
        self.processes[role] = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def kill(self, role):
        process = self.processes.pop(role)
        process.kill()
        process.communicate()

    def log(self, role):
        return ""


def test_a_role_that_a_signal_ended_is_started_again_some_times():
    roles, restarts, said = Roles(), Counter(), []
    _start_again(roles, restarts, said.append)
    assert said == []  # it lives
    for _ in range(MOST_RESTARTS + 1):
        os.kill(roles.processes["ingest"].pid, signal.SIGSEGV)
        roles.processes["ingest"].wait(20)
        _start_again(roles, restarts, said.append)
    assert len(said) == MOST_RESTARTS
    assert said[0].startswith(f"ingest was ended by signal {int(signal.SIGSEGV)}, and is started again")
    assert roles.processes["ingest"].poll() == -signal.SIGSEGV  # not once more: the whole ends
    roles.kill("ingest")
