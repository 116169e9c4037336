"""The Helm chart: what it makes is valid and fits itself on many sets of values; wrong values are refused with their name."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from tests.support.programs import parse_command, program_or_skip

CHART = Path(__file__).parents[3] / "helm" / "alertprod"
KUBERNETES = "1.31.0"


def chart_values():
    return yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def jobs(*names):
    return {"cronJobs": {name: {**chart_values()["cronJobs"][name], "enabled": True} for name in names}}


EVERYTHING = {
    "tlsSecret": "tls", "registrySecret": "registry", "keepDifferences": True, "otlpEndpoint": "http://otel:4318",
    "kafka": {"brokers": "a:9093,b:9093", "clientSecret": "kafka", "createTopics": True, "strimziCluster": "k", "replication": 3},
    "imagePullSecrets": [{"name": "pull"}], "ingress": {"enabled": True, "host": "alerts.example.org", "tlsSecret": "site"},
    "autoscaling": {"enabled": True}, "keda": {"enabled": True}, "networkPolicy": {"enabled": True, "egressPorts": [443, 4318]},
    "monitoring": {"podMonitor": True, "rules": True, "dashboards": True, "labels": {"release": "prometheus"}},
    **jobs("partitions", "archive", "retention", "deduplicate", "precovery", "export"),
}  # fmt: skip
SETS = {
    "defaults": {},
    "open to everyone": {"access": "open-to-everyone", "tokenSecret": ""},
    "tls": {"tlsSecret": "alertprod-tls"},
    "kafka with a secret": {"kafka": {"clientSecret": "kafka-client"}},
    "three brokers": {"kafka": {"brokers": "k-0.k:9093,k-1.k:9093,k-2.k:9093", "replication": 3}},
    "topics of Strimzi": {"kafka": {"createTopics": True, "strimziCluster": "survey"}},
    "registry": {"registrySecret": "registry"},
    "other images": {"image": {"repository": "r.example.org/a", "tag": "1"}, "workerImage": {"repository": "r/w", "tag": "2"}},
    "pull secrets": {"imagePullSecrets": [{"name": "one"}, {"name": "two"}]},
    "own account": {"serviceAccount": {"create": False, "name": "robot"}},
    "account with a role": {"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}},
    "ingress": {"ingress": {"enabled": True, "host": "alerts.example.org", "className": "nginx"}},
    "ingress with TLS": {"ingress": {"enabled": True, "host": "alerts.example.org", "tlsSecret": "site", "annotations": {"a/b": "c"}}},
    "autoscaling": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 9}},
    "keda": {"keda": {"enabled": True}},
    "keda without nights": {"keda": {"enabled": True, "night": {"enabled": False}}},
    "network policy": {"networkPolicy": {"enabled": True}},
    "network policy, open to two": {"networkPolicy": {"enabled": True, "fromNamespaces": ["a", "b"], "egressPorts": [443, 4318]}},
    "no budgets": {"podDisruptionBudget": {"enabled": False}},
    "monitoring": {"monitoring": {"podMonitor": True, "rules": True, "dashboards": True, "labels": {"release": "p"}}},
    "no migration": {"migrate": {"enabled": False}},
    "every job": {"keepDifferences": True, **jobs("partitions", "archive", "retention", "deduplicate", "precovery", "export")},
    "no jobs": {"cronJobs": {"partitions": {**chart_values()["cronJobs"]["partitions"], "enabled": False}}},
    "large workers": {"worker": {"jobs": 16, "jobMemoryGiB": 12}, "jobTimeoutSeconds": 3600, "drainSeconds": 4000},
    "placed": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
               "affinity": {"nodeAffinity": {}}, "podAnnotations": {"a": "b"}},
    "settings": {"extraEnv": [{"name": "ALERTPROD_ALERT_VETO", "value": '{"diaSources": 5000}'},
                              {"name": "ALERTPROD_X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
    "load balancer": {"service": {"type": "LoadBalancer", "port": 443}, "metrics": {"port": 9100}},
    "one of each": {"roles": {r: {"replicas": 1} for r in ("serve", "worker", "relay")}},
    "times": {"cronJobs": {"archive": {"schedule": "*/10,59 0-23/2 1,31 jan-Mar,12 MON-fri"}, "export": {"schedule": "0 00 ? * 0"}},
              "keda": {"enabled": True, "night": {"timezone": "Etc/UTC", "start": "30 17 * 4-9 *", "end": "0 9 * 4-9 *"}}},
    "everything": EVERYTHING,
}  # fmt: skip
WRONG = {
    "databaseSecrets": {"databaseSecrets": "x"},
    "access": {"access": "open"},
    "tokenSecret": {"tokenSecret": ""},
    "brokers": {"kafka": {"brokers": "kafka"}},
    "alertTopic": {"kafka": {"alertTopic": "my alerts"}},
    "kafka.visitTopic": {"kafka": {"visitTopic": "alerts"}},
    "kafka.alertTopic": {"kafka": {"alertTopic": "visits.dlq"}},
    "replication": {"kafka": {"replication": 0}},
    "strimziCluster": {"kafka": {"createTopics": True}},
    "storageClaim": {"storageClaim": "Data_1"},
    "replicas": {"roles": {"serve": {"replicas": -1}}},
    "crawler": {"roles": {"crawler": {"replicas": 1, "resources": {"requests": {}}}}},
    "memory": {"roles": {"worker": {"resources": {"limits": {"memory": "8Gi"}}}}},
    "drainSeconds": {"drainSeconds": 60},
    "host": {"ingress": {"enabled": True}},
    "autoscaling.minReplicas": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 2}},
    "keda.night.replicas": {"keda": {"enabled": True, "maxReplicas": 4}},
    "prometheus": {"keda": {"enabled": True, "prometheus": "prometheus:9090"}},
    "schedule": {"cronJobs": {"archive": {"schedule": "daily"}}},
    "cronJobs.archive.schedule": {"cronJobs": {"archive": {"schedule": "99 99 * * *"}}},
    "cronJobs.partitions.schedule": {"cronJobs": {"partitions": {"schedule": "0 12 * * fri-mon"}}},
    "timezone": {"keda": {"enabled": True, "night": {"timezone": "Local"}}},
    "keda.night.timezone": {"keda": {"enabled": True, "night": {"timezone": "Mars/Olympus"}}},
    "start": {"keda": {"enabled": True, "night": {"start": "0 25 * * *"}}},
    "keda.night.start": {"keda": {"enabled": True, "night": {"start": "0 8 * * *"}}},
    "ALERTPROD_ACCESS": {"extraEnv": [{"name": "ALERTPROD_ACCESS", "value": "open-to-everyone"}]},
    "ALERTPROD_DATABASE_URI_FILE": {"extraEnv": [{"name": "ALERTPROD_DATABASE_URI_FILE", "value": "/data/uri"}]},
    "ALERTPROD_X": {"extraEnv": 2 * [{"name": "ALERTPROD_X", "value": "1"}]},
    "roles.worker.resources.requests.memory": {"roles": {"worker": {"resources": {"requests": {"memory": "14Gi"}}}}},
    "roles.serve.resources.requests.memory": {"roles": {"serve": {"resources": {"requests": {"memory": 2e9}}}}},
    "networkPolicy.kafkaPorts": {"networkPolicy": {"enabled": True}, "kafka": {"brokers": "k:9095"}},
    "networkPolicy.egressPorts": {"networkPolicy": {"enabled": True}, "otlpEndpoint": "http://otel:4318/v1"},
    "keepDifferences": jobs("precovery"),
    "port": {"metrics": {"port": 8080}},
    "kafkaPorts": {"networkPolicy": {"kafkaPorts": ["http"]}},
    "jobs": {"worker": {"jobs": 0}},
    "pullPolicy": {"image": {"pullPolicy": "Sometimes"}},
    "name": {"extraEnv": [{"name": "not a name", "value": "x"}]},
    "otlpEndpoint": {"otlpEndpoint": "collector:4318"},
}
TEXT = {"type": "string", "minLength": 1}
# what we set of the resources of operators, whose schemas are not those of Kubernetes
CUSTOM = {
    "ScaledObject": {
        "required": ["scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"], "additionalProperties": False,
        "properties": {
            "scaleTargetRef": {"required": ["name"], "properties": {"name": TEXT}}, "minReplicaCount": {"type": "integer"},
            "maxReplicaCount": {"type": "integer"}, "pollingInterval": {"type": "integer"}, "cooldownPeriod": {"type": "integer"},
            "triggers": {"items": {"oneOf": [
                {"properties": {"type": {"const": "prometheus"}, "metadata": {"required": ["serverAddress", "query", "threshold"],
                                "additionalProperties": TEXT}}},
                {"properties": {"type": {"const": "cron"}, "metadata": {"required": ["timezone", "start", "end", "desiredReplicas"],
                                "additionalProperties": TEXT}}},
            ]}},
        },
    },
    "PodMonitor": {
        "required": ["selector", "podMetricsEndpoints"], "additionalProperties": False,
        "properties": {"selector": {"required": ["matchLabels"]}, "podMetricsEndpoints": {"minItems": 1, "items": {
            "required": ["port"], "additionalProperties": False,
            "properties": {"port": TEXT, "path": TEXT, "interval": TEXT, "scrapeTimeout": TEXT}}}},
    },
    "PrometheusRule": {
        "required": ["groups"], "additionalProperties": False,
        "properties": {"groups": {"items": {"required": ["name", "rules"], "properties": {"rules": {"items": {
            "required": ["alert", "expr", "for", "labels", "annotations"], "additionalProperties": False,
            "properties": {key: {} for key in ("alert", "expr", "for", "labels", "annotations")}}}}}}},
    },
    "KafkaTopic": {
        "required": ["partitions", "replicas"], "additionalProperties": False,
        "properties": {"partitions": {"type": "integer"}, "replicas": {"type": "integer"}, "config": {"type": "object"}},
    },
}  # fmt: skip


def render(values):
    return subprocess.run(
        [program_or_skip("helm"), "template", "x", str(CHART), "--kube-version", KUBERNETES, "-f", "-"],
        input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """The resources of every set of values."""
    out = {}
    for name, values in SETS.items():
        done = render(values)
        assert done.returncode == 0, (name, done.stderr)
        out[name] = [document for document in yaml.safe_load_all(done.stdout) if document]
    return out


def pods(documents):
    """Give (kind, name, specification of the pod)."""
    for d in documents:
        spec = d.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield d["kind"], d["metadata"]["name"], spec["template"]["spec"]


def test_helm_lint_finds_nothing():
    done = subprocess.run(
        [program_or_skip("helm"), "lint", "--strict", str(CHART), "--kube-version", KUBERNETES],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_resource_is_valid(made):
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    seen = set()
    for name, documents in made.items():
        for document in documents:
            text = json.dumps(document, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
            if document["kind"] in CUSTOM:
                jsonschema.validate(document["spec"], CUSTOM[document["kind"]])
            else:
                try:
                    validate.validate(document, "1.31", strict=True)
                except Exception as error:
                    pytest.fail(f"{name}: {document['kind']} {document['metadata']['name']}: {str(error)[:1000]}")
    kinds = {json.loads(text)["kind"] for text in seen}
    assert kinds >= {*CUSTOM, "Deployment", "CronJob", "Job", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy",
                     "Ingress", "ServiceAccount", "Service", "ConfigMap"}  # fmt: skip
    assert len(SETS) >= 20


def test_pods_are_closed_and_write_where_they_may(made):
    for documents in made.values():
        for kind, name, pod in pods(documents):
            assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False, name
            (container,) = pod["containers"]
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}, name
            mounts = {m["mountPath"] for m in container["volumeMounts"]}
            assert "/tmp" in mounts
            assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
            written = [e["value"] for e in container["env"] if e["name"].endswith("_DIR")]
            assert all(any(w.startswith(f"{m}/") for m in mounts) for w in written), (name, written)
            assert "memory" in container["resources"]["limits"]
            if kind == "Deployment":
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
                named = {p["name"] for p in container["ports"]}
                assert {
                    container[p]["httpGet"]["port"] for p in ("startupProbe", "livenessProbe", "readinessProbe")
                } <= named


def test_workers_have_time_and_memory_for_their_jobs(made):
    for name, documents in made.items():
        (pod,) = [p for kind, n, p in pods(documents) if n == "x-worker"]
        (container,) = pod["containers"]
        env = {e["name"]: e.get("value") for e in container["env"]}
        assert (
            pod["terminationGracePeriodSeconds"]
            > float(env["ALERTPROD_DRAIN_S"])
            >= float(env["ALERTPROD_JOB_TIMEOUT_S"])
        ), name
        jobs, each = int(env["ALERTPROD_WORKERS"]), float(env["ALERTPROD_JOB_MEMORY_GB"])
        assert int(container["resources"]["limits"]["memory"].removesuffix("Gi")) > jobs * each


def test_settings_are_those_that_the_program_reads(made):
    known = {f"ALERTPROD_{name.upper()}" for name in Settings.model_fields}
    given = {e["name"] for d in made["everything"] for _, _, pod in pods([d]) for e in pod["containers"][0]["env"]}
    assert given - known == set()


def test_jobs_run_commands_that_there_are():
    for job in chart_values()["cronJobs"].values():
        parse_command(job["args"])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_by_their_name(name):
    done = render(WRONG[name])
    assert done.returncode != 0, f"{name} was taken"
    assert re.search(rf"\b{re.escape(name)}\b", done.stderr), done.stderr


@pytest.mark.parametrize(("text", "field"), [
    ("60 * * * *", "minute"), ("*/0 * * * *", "minute"), ("1,,2 * * * *", "minute"), ("0 24 * * *", "hour"), ("0 1- * * *", "hour"),
    ("0 0 0 * *", "day of the month"), ("0 0 * 13 *", "month"), ("0 0 * * 7", "day of the week"), ("0 0 * * fri-mon", "day of the week"),
])  # fmt: skip
def test_a_time_that_no_clock_shows_is_refused_by_its_field(text, field):
    done = render({"keda": {"night": {"end": text}}})
    assert done.returncode != 0, f"{text} was taken"
    assert re.search(rf'keda\.night\.end is "{re.escape(text)}": ".*" is no {field}: ', done.stderr), done.stderr


def test_rules_and_dashboards_are_the_files(made):
    by_kind = {d["kind"]: d for d in made["monitoring"]}
    files = CHART / "files"
    assert by_kind["PrometheusRule"]["spec"] == yaml.safe_load((files / "alerts.yaml").read_text(encoding="utf-8"))
    boards = by_kind["ConfigMap"]["data"]
    assert boards == {p.name: p.read_text(encoding="utf-8") for p in (files / "dashboards").glob("*.json")}


def test_a_replica_count_stays_away_from_what_scales_by_itself(made):
    scaled = {
        d["metadata"]["name"] for d in made["everything"] if d["kind"] == "Deployment" and "replicas" not in d["spec"]
    }
    assert scaled == {"x-serve", "x-worker"}
