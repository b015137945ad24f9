"""The Dockerfile and the manifests of ``examples/deploy``: read, and what they start is started."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiowsgi.config import OPTIONS, Config
from tests.deploy.daemons import EXAMPLES, PATIENCE
from tests.process.server_process import connect_unix, environment, server_process

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of its own
    import kubernetes_validate

# Not the newest: what most clusters have.
KUBERNETES = "1.33"

CHECKOUT = EXAMPLES.parents[1]


def instructions(path: Path = EXAMPLES / "Dockerfile") -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions with what follows their names."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, value.strip()) for name, _, value in (line.partition(" ") for line in lines)]


def last(name: str) -> str:
    return [value for found, value in instructions() if found == name][-1]


def configuration(arguments: list[str]) -> Config:
    """Read flags as ``--name=value``; each has to be an option's."""
    known = {item.flag: item for item in OPTIONS}
    flags: dict[str, Any] = {}
    for argument in arguments:
        flag, equals, text = argument.partition("=")
        assert flag in known, flag
        assert equals, argument
        item = known[flag]
        flags[item.name] = (text,) if isinstance(getattr(Config(), item.name), tuple) else text
    return Config.from_texts(flags, {})


def manifests() -> dict[str, Any]:
    found = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    return {manifest["kind"]: manifest for manifest in found}


def pod() -> Any:
    return manifests()["Deployment"]["spec"]["template"]["spec"]


def container() -> Any:
    (only,) = pod()["containers"]
    return only


def test_dockerfile_runs_nothing_in_a_shell_and_not_as_root() -> None:
    names = {name for name, _ in instructions()}
    assert names <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"} | {
        "ENTRYPOINT",
        "CMD",
    }
    for name, value in instructions():
        if name in ("RUN", "ENTRYPOINT", "CMD"):
            assert all(isinstance(word, str) for word in json.loads(value)), value
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last("USER"))
    assert [name for name, _ in instructions()].index("USER") < [name for name, _ in instructions()].index("CMD")


def test_dockerfile_copies_what_is_there() -> None:
    for name, value in instructions():
        *sources, _ = value.split()
        if name == "COPY" and not value.startswith("--from=build "):
            assert all((CHECKOUT / source).exists() for source in sources), value
    extras = re.search(r"\.\[([a-z,]+)\]", (EXAMPLES / "Dockerfile").read_text())
    assert extras
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))


def test_image_starts_and_finds_itself_well(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES.parent / "hello.py", tmp_path)
    assert json.loads(last("ENTRYPOINT")) == ["aiowsgi"]
    name, *flags = json.loads(last("CMD"))
    assert configuration(flags).bind == ("0.0.0.0:8000",)
    arguments = [flag.replace("0.0.0.0:8000", "127.0.0.1:0") for flag in flags]
    check = json.loads(last("HEALTHCHECK").partition("CMD")[2])
    # As the first process of a container it has a supervisor.
    with server_process(tmp_path, name, "--workers=1", *arguments) as server:
        with server.connect() as client:
            assert client.get("/").content.startswith(b"Hello")
        command = [word.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}") for word in check]
        ping = [sys.executable, "-m", *command]
        assert subprocess.run(ping, env=environment(), timeout=PATIENCE, check=False).returncode == 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert subprocess.run(ping, env=environment(), timeout=PATIENCE, check=False).returncode == 1


@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler"])
def test_manifest_is_what_kubernetes_understands(kind: str) -> None:
    manifest = manifests()[kind]
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    # The same check finds a field that Kubernetes does not know.
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest | {"specification": {}}, KUBERNETES, strict=True)


def test_manifests_name_each_other() -> None:
    found = manifests()
    template = found["Deployment"]["spec"]["template"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == template["metadata"]["labels"]
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    config = configuration(container()["args"][1:])
    assert config.bind == (f"0.0.0.0:{ports['http']}",)
    assert config.metrics_bind == f"0.0.0.0:{ports['metrics']}"
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_pod_lives_longer_than_its_drain() -> None:
    config = configuration(container()["args"][1:])
    assert pod()["terminationGracePeriodSeconds"] > config.drain_delay + config.graceful_timeout
    readiness = container()["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < config.drain_delay
    for name, path in (
        ("startupProbe", config.health_path),
        ("livenessProbe", config.health_path),
        ("readinessProbe", config.ready_path),
    ):
        assert container()[name]["httpGet"] == {"path": path, "port": "http"}


def test_pod_may_do_little() -> None:
    assert pod()["securityContext"]["runAsNonRoot"]
    assert str(pod()["securityContext"]["runAsUser"]) == last("USER").partition(":")[0]
    own = container()["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    # Large uploads need one place to write.
    assert [mount["mountPath"] for mount in container()["volumeMounts"]] == ["/tmp"]


def test_autoscaler_asks_for_figures_that_the_pod_has(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((EXAMPLES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (metric,) = manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    names = set(re.findall(r"(aiowsgi_\w+)\{", rule["seriesQuery"] + rule["metricsQuery"]))
    assert names == {"aiowsgi_request_queue_seconds_sum", "aiowsgi_request_queue_seconds_count"}
    shutil.copy(EXAMPLES.parent / "hello.py", tmp_path)
    name, *flags = container()["args"]
    arguments = [
        flag.replace("0.0.0.0:8000", "127.0.0.1:0").replace("0.0.0.0:9100", f"unix:{tmp_path}/metrics")
        for flag in flags
    ]
    with server_process(tmp_path, name, "--workers=1", *arguments) as server:
        with server.connect() as client:
            assert client.get("/ready").status_code == 200
            assert client.get("/").status_code == 200
        with connect_unix(tmp_path / "metrics") as client:
            text = client.get("/metrics").content.decode()
        assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in names), text
        server.signal(signal.SIGQUIT)
        server.wait()
