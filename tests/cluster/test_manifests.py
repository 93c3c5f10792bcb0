"""The files of cluster/: schemas, one set of versions, entry points that exist, nothing open, nothing secret."""

from __future__ import annotations

import copy
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from raydd.cli.jobs import VERBS
from raydd.config import load_config
from tests.cluster.schemas import ClusterSpec, NetworkPolicy, RayCluster, RayJob, Template, checked

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
# Where the image has jobs/, and what `ray job submit --working-dir .` runs.
IN_IMAGE = "/home/ray/raydd/"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def ray_job() -> RayJob:
    return checked(documents("rayjob.yaml")[0])


def ray_cluster() -> RayCluster:
    return checked(documents("raycluster.yaml")[0])


def ray_up() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "aws" / "ray-up.yaml").read_text())


def templates(spec: ClusterSpec) -> list[Template]:
    return [spec.headGroupSpec.template, *(group.template for group in spec.workerGroupSpecs)]


def arguments() -> dict[str, str]:
    """Return the ARGs of the container file that have a value."""
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", (CLUSTER / "Containerfile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", [path.name for path in sorted(KUBERAY.glob("*.yaml"))])
def test_every_object_fits_its_schema(name: str) -> None:
    for document in documents(name):
        checked(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "backofLimit"], 3),
        (["spec", "backoffLimit"], "3"),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "disabled"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplica"], 0),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "securityContext", "runAsUser"], 0),
        (["spec", "rayClusterSpec", "headGroupSpec", "serviceType"], "LoadBalancer"),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: list[Any], value: Any) -> None:
    document = copy.deepcopy(documents("rayjob.yaml")[0])
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=re.escape(str(path[-1]))):
        checked(document)


def test_a_job_has_the_cluster_that_stays() -> None:
    assert ray_job().spec.rayClusterSpec == ray_cluster().spec


def test_workers_come_from_zero_and_the_head_works_not() -> None:
    spec = ray_cluster().spec
    assert spec.headGroupSpec.rayStartParams == {"num-cpus": "0"}
    for group in spec.workerGroupSpecs:
        assert group.minReplicas == group.replicas == 0
        assert "nvidia.com/gpu" in group.template.spec.containers[0].resources.limits
    up = ray_up()
    assert up["available_node_types"][up["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [kind for name, kind in up["available_node_types"].items() if name != up["head_node_type"]]
    assert all(kind["min_workers"] == 0 for kind in workers)
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers)
    assert "InstanceMarketOptions" not in up["available_node_types"][up["head_node_type"]]["node_config"]


def test_shared_memory_holds_the_object_store() -> None:
    for template in templates(ray_cluster().spec):
        pod = template.spec
        container = pod.containers[0]
        volumes = {volume.name: volume.emptyDir for volume in pod.volumes}
        assert {mount.name for mount in container.volumeMounts} == set(volumes)
        at = {mount.mountPath: volumes[mount.name] for mount in container.volumeMounts}
        assert at["/dev/shm"].medium == "Memory"
        # Ray's store is 30 % of the memory.
        assert gib(at["/dev/shm"].sizeLimit) >= 0.3 * gib(container.resources.limits["memory"])
        caches = {variable.value for variable in container.env if variable.name == "RAYDD_CACHE"}
        assert caches <= set(at)


def gib(quantity: str) -> float:
    return float(quantity.removesuffix("Gi"))


def test_a_stopped_job_has_time_for_a_checkpoint() -> None:
    head = ray_cluster().spec.headGroupSpec.template.spec
    waits = {variable.name: variable.value for variable in head.containers[0].env}
    assert head.terminationGracePeriodSeconds is not None
    assert 10 <= int(waits["RAY_JOB_STOP_WAIT_TIME_S"]) < head.terminationGracePeriodSeconds


def test_versions_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = arguments()
    ray, python = wanted["RAY_VERSION"], wanted["PYTHON_TAG"]
    assert f"ray=={ray}" in project["tool"]["uv"]["constraint-dependencies"]
    assert any(
        re.fullmatch(rf"ray\[.*\]=={ray.rpartition('.')[0]}\.\*", need) for need in project["project"]["dependencies"]
    )
    assert project["project"]["requires-python"] == f">={python[2]}.{python[3:]}"
    assert wanted["RAYDD_VERSION"] == project["project"]["version"]
    for spec in (ray_job().spec.rayClusterSpec, ray_cluster().spec):
        assert spec.rayVersion == ray
    tags = {tag for path in FILES for tag in re.findall(r"/raydd:(\S+?)(?=[\s`]|$)", path.read_text())}
    assert tags == {f"{wanted['RAYDD_VERSION']}-ray{ray}-{python}"}


def test_all_pods_run_one_image() -> None:
    job = ray_job().spec
    images = {
        container.image
        for template in [*templates(job.rayClusterSpec), job.submitterPodTemplate]
        for container in template.spec.containers
    }
    assert images == {ray_up()["docker"]["image"]}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a page's indented and fenced blocks, those that end in a backslash joined."""
    for block in re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)


def distillations() -> list[list[str]]:
    """Return what follows the verb `distill`, or its script, in the manifests and on the page."""
    found = [shlex.split(ray_job().spec.entrypoint), *commands((CLUSTER / "README.md").read_text())]
    starts = [next((i for i, word in enumerate(c) if word in ("distill", "jobs/distill.py")), None) for c in found]
    return [c[start + 1 :] for c, start in zip(found, starts, strict=True) if start is not None]


def test_configs_exist_and_take_what_is_set() -> None:
    found = distillations()
    assert len(found) == 4
    for path, *words in found:
        overrides = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
        config = load_config(str(ROOT / path.removeprefix(IN_IMAGE)), overrides)
        assert str(config.store).startswith("s3://")
        group = ray_cluster().spec.workerGroupSpecs[0]
        limits = group.template.spec.containers[0].resources.limits
        assert 1 <= config.engine.workers <= group.maxReplicas
        assert config.engine.cpus_per_worker <= int(limits["cpu"])
        assert config.engine.gpus_per_worker <= int(limits["nvidia.com/gpu"])


def test_files_named_on_the_page_exist() -> None:
    named = set(re.findall(r"(?:cluster|jobs)/[\w./-]+\.(?:py|ya?ml|json)", (CLUSTER / "README.md").read_text()))
    assert {"jobs/distill.py", "jobs/evaluate.py", "cluster/aws/ray-up.yaml", "cluster/kuberay/rayjob.yaml"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("verb", ["pack", "distill", "sweep", "app", "evaluate", "train"])
def test_entry_points_are_the_verbs(verb: str) -> None:
    assert re.search(rf"Usage: {verb}\.py {verb} ", help_of(f"jobs/{verb}.py"))


def help_of(script: str) -> str:
    told = [sys.executable, script, "--help"]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmark_says_how_it_is_called() -> None:
    assert re.search(r"Usage: benchmark\.py ", help_of("jobs/benchmark.py"))


def test_every_verb_that_is_submitted_has_an_entry_point() -> None:
    found = {path.stem for path in (ROOT / "jobs").glob("*.py") if "sys.argv.insert(1, " in path.read_text()}
    assert found == set(VERBS) - {"report", "export"}


def test_nothing_reaches_ray_but_raydd_and_the_operator() -> None:
    policies = [checked(document) for document in documents("access.yaml")]
    policy = next(found for found in policies if isinstance(found, NetworkPolicy)).spec
    for template in [*templates(ray_cluster().spec), ray_job().spec.submitterPodTemplate]:
        assert policy.podSelector.matchLabels.items() <= template.metadata.labels.items()
    ours, operators = policy.ingress
    assert [peer.podSelector for peer in ours.from_] == [policy.podSelector]
    assert [peer.podSelector.matchLabels for peer in operators.from_] == [
        {"app.kubernetes.io/name": "kuberay-operator"}
    ]
    assert [port.port for port in operators.ports] == [8265]


def test_the_dashboard_of_machines_listens_on_loopback() -> None:
    (start,) = (command for command in ray_up()["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in shlex.split(start)
    assert not [path for path in FILES if path.name != "README.md" and "0.0.0.0" in path.read_text()]


def test_machines_ask_for_the_token() -> None:
    up = ray_up()
    assert "--env=RAY_AUTH_MODE=token" in up["docker"]["run_options"]
    assert up["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_secret(path: Path) -> None:
    text = path.read_text()
    assert not re.findall(r"AKIA[0-9A-Z]{12,}|ASIA[0-9A-Z]{12,}|-----BEGIN|gh[pousr]_\w{20,}", text)
    assert not re.findall(r"(?i)(?:secret|token|password|key)\w*['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9+/]{24,}", text)
    assert set(re.findall(r"\b\d{12}\b", text)) <= {"111122223333"}, "AWS's own placeholder for an account"
    assert "kind: Secret" not in text


def test_ray_up_passes_rays_own_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither a cloud's package nor a network is needed for that.
    monkeypatch.setitem(sys.modules, "boto3", None)
    # Private, but what `ray up` itself calls first.
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = prepare_config(ray_up())
    validate_config(whole)
    assert whole["setup_commands"] == whole["head_setup_commands"] == whole["worker_setup_commands"] == []
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config({**ray_up(), "idle_timeout": 10}))
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config({**ray_up(), "head_node_type": "none"}))
