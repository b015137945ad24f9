"""The files by which ``examples/cluster`` is run in containers: read, and compared with what they start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiowsgi.config import Config
from tests.deploy.daemons import EXAMPLES, PATIENCE, find, needs
from tests.deploy.test_containers import CHECKOUT, KUBERNETES, configuration, instructions, kubernetes_validate
from tests.process.server_process import wait_until

CLUSTER = EXAMPLES.parent / "cluster"
INSTANCES = ("web1", "web2", "web3")
KINDS = [
    "Deployment board",
    "Service board",
    "PodDisruptionBudget board",
    "HorizontalPodAutoscaler board",
    "StatefulSet redis",
    "Service redis",
    "NetworkPolicy redis",
]
UNITS = {"s": 1, "ms": 0.001}


def compose() -> Any:
    return yaml.safe_load((CLUSTER / "compose.yaml").read_text())


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def manifests() -> dict[str, Any]:
    found = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    return {f"{manifest['kind']} {manifest['metadata']['name']}": manifest for manifest in found}


def pod(name: str) -> Any:
    return manifests()[name]["spec"]["template"]


def container(name: str) -> Any:
    (only,) = pod(name)["spec"]["containers"]
    return only


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(m?s)", text)
    assert match, text
    return int(match[1]) * UNITS[match[2]]


def dockerfile(name: str) -> str:
    return [value for found, value in instructions(CLUSTER / "Dockerfile") if found == name][-1]


def served(arguments: list[str]) -> Config:
    name, *flags = arguments
    assert name == "app:app"
    config = configuration(flags)
    assert config.workers == 2
    return config


def seconds_until_seen() -> float:
    """How long HAProxy takes to see that an instance is not ready."""
    match = re.search(r"inter (\w+) fall (\d+)", (CLUSTER / "haproxy.cfg").read_text())
    assert match
    return seconds(match[1]) * int(match[2])


def test_image_has_what_the_board_needs_and_is_not_root() -> None:
    for name, value in instructions(CLUSTER / "Dockerfile"):
        *sources, _ = value.split()
        if name == "COPY" and not value.startswith("--from=build "):
            assert all((CHECKOUT / source).exists() for source in sources), value
        if name in ("RUN", "ENTRYPOINT", "CMD"):
            assert json.loads(value), value
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", dockerfile("USER"))
    assert json.loads(dockerfile("ENTRYPOINT")) == ["aiowsgi"]
    assert served(json.loads(dockerfile("CMD"))).bind == ("0.0.0.0:8000",)
    extras = re.search(r"\.\[([a-z,]+)\]", (CLUSTER / "Dockerfile").read_text())
    assert extras
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert "redis" in extras[1].split(",")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))


def test_compose_has_the_three_instances_that_haproxy_asks() -> None:
    proxy = services()["haproxy"]
    assert set(services()) == {"redis", "haproxy", *INSTANCES}
    for name in INSTANCES:
        service = services()[name]
        config = served(service["command"])
        port = config.bind[0].rpartition(":")[2]
        assert proxy["environment"][name.upper()] == f"{name}:{port}"
        assert service["environment"] == {"REDIS_URL": "redis://redis:6379/0", "INSTANCE": name}
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert service["build"]["dockerfile"] == "examples/cluster/Dockerfile"
        assert (CLUSTER / service["build"]["context"]).resolve() == CHECKOUT.resolve()
        program, *command = service["healthcheck"]["test"][1:]
        assert (program, command) == ("aiowsgi", ["ping", f"http://127.0.0.1:{port}{config.ready_path}"])
        # It is seen before it ends, and is not killed before it has ended.
        assert seconds_until_seen() < config.drain_delay
        assert config.drain_delay + config.graceful_timeout < seconds(service["stop_grace_period"])
    listens = proxy["environment"]["LISTEN"]
    assert proxy["ports"] == [f"127.0.0.1{listens}{listens}"]
    assert f"http://127.0.0.1{listens}/instances" in proxy["healthcheck"]["test"]
    (volume,) = proxy["volumes"]
    assert (CLUSTER / volume.split(":")[0]).is_file()


def test_compose_services_have_only_keys_that_compose_knows() -> None:
    # What this file uses of https://docs.docker.com/reference/compose-file/services/
    known = {"image", "build", "command", "environment", "ports", "volumes", "healthcheck", "depends_on"}
    known |= {"stop_grace_period", "restart", "read_only", "tmpfs", "cap_drop", "security_opt"}
    assert set(compose()) == {"name", "x-web", "services", "volumes"}
    for name, service in services().items():
        assert set(service) <= known, name
        assert service["stop_grace_period"]
        assert set(service["healthcheck"]) <= {"test", "interval", "timeout", "start_period", "retries"}
        assert service["healthcheck"]["test"][0] == "CMD"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose()["volumes"] or source.startswith("./"), volume


@needs("redis-server", "redis-cli")
@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_redis_starts_by_the_command_and_is_well_by_the_check(where: str) -> None:
    if where == "compose":
        command = services()["redis"]["command"]
        check = services()["redis"]["healthcheck"]["test"][1:]
    else:
        command = container("StatefulSet redis")["args"]
        check = container("StatefulSet redis")["readinessProbe"]["exec"]["command"]
    assert all(isinstance(word, str) for word in command)
    assert command[command.index("--appendonly") + 1] == "yes"
    # A Unix socket's path is short.
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/sock"
        arguments = [*command[1:], "--port", "0", "--unixsocket", path, "--dir", folder]
        process = subprocess.Popen([str(find(command[0])), *arguments], stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: os.path.exists(path) or process.poll() is not None, "Redis")
            question = [str(find(check[0])), "-s", path, *check[1:]]
            wait_until(lambda: subprocess.run(question, timeout=PATIENCE, check=False).returncode == 0, "its check")
        finally:
            process.terminate()
            process.wait(PATIENCE)


@needs("haproxy")
@pytest.mark.parametrize("where", ["compose", "sockets"])
def test_haproxy_understands_its_file(where: str, tmp_path: Path) -> None:
    if where == "compose":
        variables = services()["haproxy"]["environment"]
    else:
        variables = {"LISTEN": "127.0.0.1:1"} | {name.upper(): f"unix@{tmp_path}/{name}" for name in INSTANCES}
    command = [str(find("haproxy")), "-c", "-f", str(CLUSTER / "haproxy.cfg")]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    # Nobody knows these names here; there, they may come later.
    warnings = [line for line in done.stderr.splitlines() if "[WARNING]" in line]
    assert all("could not resolve address" in line for line in warnings), done.stderr
    assert len(warnings) in ((0, 3) if where == "compose" else (0,)), done.stderr


@pytest.mark.parametrize("name", KINDS)
def test_manifest_is_what_kubernetes_understands(name: str) -> None:
    assert list(manifests()) == KINDS
    manifest = manifests()[name]
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    # The same check finds a field that Kubernetes does not know.
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest | {"specification": {}}, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["Deployment board", "StatefulSet redis"])
def test_manifests_select_the_pods_that_are_meant(name: str) -> None:
    found = manifests()
    labels = pod(name)["metadata"]["labels"]
    assert found[name]["spec"]["selector"]["matchLabels"] == labels
    own = name.split()[1]
    service = found[f"Service {own}"]
    assert service["spec"]["selector"] == labels
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in {port["name"] for port in container(name)["ports"]}
    assert pod(name)["spec"]["securityContext"]["runAsNonRoot"]
    assert container(name)["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in found[name]["spec"].get("volumeClaimTemplates", [])}
    assert mounted == {volume["name"] for volume in pod(name)["spec"].get("volumes", [])} | claims


def test_budget_autoscaler_and_policy_are_the_boards() -> None:
    found = manifests()
    labels = pod("Deployment board")["metadata"]["labels"]
    redis = pod("StatefulSet redis")["metadata"]["labels"]
    assert found["PodDisruptionBudget board"]["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    scaler = found["HorizontalPodAutoscaler board"]["spec"]
    assert (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) == ("Deployment", "board")
    assert scaler["minReplicas"] == len(INSTANCES)
    (rule,) = yaml.safe_load((EXAMPLES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    policy = found["NetworkPolicy redis"]["spec"]
    assert policy["podSelector"]["matchLabels"] == redis
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": labels}}]
    (variable,) = [item for item in container("Deployment board")["env"] if item["name"] == "REDIS_URL"]
    (port,) = container("StatefulSet redis")["ports"]
    assert variable["value"] == f"redis://redis:{port['containerPort']}/0"


def test_pod_lives_longer_than_its_drain() -> None:
    own = container("Deployment board")
    config = served(own["args"])
    ports = {port["name"]: port["containerPort"] for port in own["ports"]}
    assert config.bind == (f"0.0.0.0:{ports['http']}",)
    assert config.metrics_bind == f"0.0.0.0:{ports['metrics']}"
    assert pod("Deployment board")["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    assert pod("Deployment board")["spec"]["terminationGracePeriodSeconds"] > (
        config.drain_delay + config.graceful_timeout
    )
    readiness = own["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < config.drain_delay
    for probe, path in (
        ("startupProbe", config.health_path),
        ("livenessProbe", config.health_path),
        ("readinessProbe", config.ready_path),
    ):
        assert own[probe]["httpGet"] == {"path": path, "port": "http"}
