"""service/observe/listener.py, watch.py: what a role tells of itself over its port."""

import socket
import threading
from contextlib import closing

import httpx
import pytest

from alerts.errors import BrokerUnavailable
from service.errors import PortInUse
from service.observe.listener import IDLE_S, MOST, Listener
from service.observe.watch import Reach, Watch, reach_broker
from tasks.local_server import free_port


@pytest.fixture
def role():
    """A listener, and what is wrong with its role."""
    problems = {}
    listener = Listener(("127.0.0.1", 0), lambda: problems, lambda: b"# HELP x y\n").start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.server_address[1]}", timeout=10) as client:
        yield client, problems
    listener.shutdown()
    listener.server_close()


def test_alive_ready_and_metrics(role):
    client, problems = role
    assert (client.get("/healthz").status_code, client.get("/readyz").text) == (200, "ready\n")
    answer = client.get("/metrics")
    assert answer.text == "# HELP x y\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    problems["broker"] = "broker_unavailable: brokers b:1: refused"
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "broker: broker_unavailable: brokers b:1: refused\n")
    assert client.get("/healthz").status_code == 200
    assert (client.get("/../etc/passwd").status_code, client.post("/metrics").status_code) == (404, 501)
    assert "Python" not in answer.headers["server"]


def test_clients_that_say_nothing_do_not_keep_others_out(role, monkeypatch):
    client, _ = role
    monkeypatch.setattr("service.observe.listener._Answers.timeout", IDLE_S / 10)
    port = client.base_url.port
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST - 1)]
    assert client.get("/healthz").status_code == 200
    for connection in silent:
        connection.settimeout(IDLE_S)
    assert silent[0].recv(1) == b""  # closed from the other side
    for connection in silent:
        connection.close()


def test_a_port_that_is_taken_is_named():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse, match=f"ALERTPROD_METRICS_PORT={taken.getsockname()[1]}"):
            Listener(taken.getsockname(), dict, bytes)


def test_a_watch_knows_what_does_not_answer_and_when_it_does_again(caplog):
    away = threading.Event()
    away.set()

    def ask():
        if away.is_set():
            raise BrokerUnavailable("brokers b:1: refused")

    watch = Watch({"broker": ask, "database": lambda: None})
    assert watch.problems() == dict.fromkeys(("broker", "database"), "not asked yet")
    watch.look()
    watch.look()
    assert watch.problems() == {"broker": "broker_unavailable: brokers b:1: refused"}
    away.clear()
    with caplog.at_level("INFO", "alertprod.watch"):
        watch.look()
    assert watch.problems() == {}
    assert [r.message for r in caplog.records].count("broker: brokers b:1: refused") <= 1
    assert caplog.records[-1].message == "broker answers again"


def test_a_fault_in_a_question_is_a_problem_and_no_end():
    watch = Watch({"database": lambda: {}["x"]})
    watch.look()
    assert watch.problems()["database"].startswith("KeyError")


def test_a_broker_is_reached_where_one_of_several_listens():
    with closing(socket.socket()) as broker:
        broker.bind(("127.0.0.1", 0))
        broker.listen()
        here, gone = f"127.0.0.1:{broker.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        reach_broker(f"{gone}, {here}")()
        assert Reach(here).problem() is None
    with pytest.raises(BrokerUnavailable, match="refused"):
        reach_broker(gone)()
    assert "refused" in Reach(gone).problem()
    assert "host:port" in Reach("nonsense").problem() or "invalid" in Reach("nonsense").problem()
    assert Reach("").problem() is None
