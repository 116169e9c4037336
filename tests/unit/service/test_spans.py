"""service/observe/spans.py: what a collector gets of a visit."""

import pytest

from service.errors import SettingsError
from service.observe import spans
from service.observe.spans import open_spans, record_span, spans_to
from service.observe.traces import trace_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collected():
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    spans_to(export.SimpleSpanProcessor(memory), "worker")
    yield memory
    spans_to(None, "worker")


def test_an_attempt_is_a_span_of_its_trace_with_its_steps_in_order(collected):
    record_span("visit", PARENT, 3.0, {"visit": 7, "code": None}, {"open": 1.0, "difference": 2.0})
    *steps, visit = collected.get_finished_spans()
    assert f"{visit.context.trace_id:032x}" == trace_id(PARENT)
    assert f"{visit.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (visit.name, dict(visit.attributes)) == ("visit", {"visit": 7})
    assert visit.resource.attributes["service.name"] == "alertprod-worker"
    assert visit.end_time - visit.start_time == pytest.approx(3e9, abs=2)
    assert [s.name for s in steps] == ["open", "difference"]
    assert {s.parent.span_id for s in steps} == {visit.context.span_id}
    assert (steps[0].start_time, steps[0].end_time) == (visit.start_time, steps[1].start_time)
    assert steps[1].end_time == pytest.approx(visit.end_time, abs=2)


def test_no_trace_no_span(collected):
    record_span("visit", None, 1.0, {})
    record_span("visit", "nonsense", 1.0, {})
    assert collected.get_finished_spans() == ()


def test_without_an_endpoint_nothing_is_opened():
    open_spans("serve", "")
    assert spans._tracer is None
    record_span("visit", PARENT, 1.0, {})


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'alertprod\[otel\]'"):
        open_spans("serve", "http://127.0.0.1:4318")
