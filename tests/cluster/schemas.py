"""The fields of Kubernetes and KubeRay that the manifests use, and what each may say; every other field is refused.

Written by hand from KubeRay's definitions of 1.6.2 and 1.7.0, stricter than those: a pod that may become root, or one without
limits, does not fit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Quantity = Annotated[str, Field(pattern=r"^\d+(m|Mi|Gi)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]
Labels = dict[str, str]


class Fields(BaseModel):
    """Fields of an object: these, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Metadata(Fields):
    name: Name
    namespace: Literal["raydd"] | None = None
    labels: Labels = {}
    annotations: dict[str, str] = {}


class Capabilities(Fields):
    drop: list[Literal["ALL"]] = Field(min_length=1)


class Confined(Fields):
    allowPrivilegeEscalation: Literal[False]
    capabilities: Capabilities


class Seccomp(Fields):
    type: Literal["RuntimeDefault"]


class Nobody(Fields):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(ge=1)]
    runAsGroup: Annotated[int, Field(ge=1)]
    fsGroup: Annotated[int, Field(ge=1)] | None = None
    seccompProfile: Seccomp


class Variable(Fields):
    name: str
    value: str


class Port(Fields):
    name: str
    containerPort: Annotated[int, Field(gt=0, lt=65536)]


class Resources(Fields):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Mount(Fields):
    name: str
    mountPath: Annotated[str, Field(pattern="^/")]


class Container(Fields):
    name: str
    image: str
    securityContext: Confined
    resources: Resources
    env: list[Variable] = []
    ports: list[Port] = []
    volumeMounts: list[Mount] = []


class EmptyDir(Fields):
    medium: Literal["Memory"] | None = None
    sizeLimit: Quantity


class Volume(Fields):
    name: str
    emptyDir: EmptyDir


class Toleration(Fields):
    key: str
    operator: Literal["Exists", "Equal"]
    value: str | None = None
    effect: Literal["NoSchedule"]


class Pod(Fields):
    serviceAccountName: Literal["raydd"] | None = None
    restartPolicy: Literal["Never"] | None = None
    terminationGracePeriodSeconds: Annotated[int, Field(ge=30)] | None = None
    nodeSelector: Labels = {}
    tolerations: list[Toleration] = []
    securityContext: Nobody
    containers: list[Container] = Field(min_length=1, max_length=1)
    volumes: list[Volume] = []


class TemplateMetadata(Fields):
    labels: Labels
    annotations: dict[str, str] = {}


class Template(Fields):
    metadata: TemplateMetadata
    spec: Pod


class Head(Fields):
    rayStartParams: dict[str, str]
    template: Template


class Workers(Fields):
    groupName: Name
    replicas: Annotated[int, Field(ge=0)]
    minReplicas: Annotated[int, Field(ge=0)]
    maxReplicas: Annotated[int, Field(ge=1)]
    rayStartParams: dict[str, str]
    template: Template


class Autoscaler(Fields):
    version: Literal["v2"]
    idleTimeoutSeconds: Annotated[int, Field(ge=0)]
    securityContext: Confined
    resources: Resources


class Auth(Fields):
    mode: Literal["token"]
    secretName: Name


class ClusterSpec(Fields):
    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: Autoscaler
    authOptions: Auth
    headGroupSpec: Head
    workerGroupSpecs: list[Workers] = Field(min_length=1)


class RayCluster(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class JobSpec(Fields):
    entrypoint: str
    submissionMode: Literal["K8sJobMode"]
    backoffLimit: Annotated[int, Field(ge=1)]
    shutdownAfterJobFinishes: Literal[True]
    ttlSecondsAfterFinished: Annotated[int, Field(ge=0)]
    submitterPodTemplate: Template
    rayClusterSpec: ClusterSpec


class RayJob(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


class Namespace(Fields):
    apiVersion: Literal["v1"]
    kind: Literal["Namespace"]
    metadata: Metadata


class ServiceAccount(Fields):
    apiVersion: Literal["v1"]
    kind: Literal["ServiceAccount"]
    metadata: Metadata


class Selector(Fields):
    matchLabels: Labels = {}


class Peer(Fields):
    podSelector: Selector
    namespaceSelector: Selector | None = None


class OpenPort(Fields):
    protocol: Literal["TCP"]
    port: int


class Ingress(Fields):
    from_: list[Peer] = Field(alias="from", min_length=1)
    ports: list[OpenPort] = []


class PolicySpec(Fields):
    podSelector: Selector
    policyTypes: list[Literal["Ingress"]] = Field(min_length=1)
    ingress: list[Ingress]


class NetworkPolicy(Fields):
    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: PolicySpec


KINDS: dict[str, type[Fields]] = {
    kind.__name__: kind for kind in (Namespace, ServiceAccount, NetworkPolicy, RayCluster, RayJob)
}


def checked(document: dict[str, Any]) -> Any:
    """Return a Kubernetes object as its model; raises pydantic's error when it does not fit."""
    return KINDS[document["kind"]].model_validate(document)
