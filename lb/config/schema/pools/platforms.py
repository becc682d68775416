"""Endpoints that a platform knows: services of Kubernetes, target groups of AWS, instance groups of Google Cloud."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from lb.config.schema.base import FilePath, Integer, Model, problem, text
from lb.config.units import SECOND, Duration

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
KubernetesName = Annotated[str, *text(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*", "is no name of Kubernetes")]
Url = Annotated[str, *text(r"https?://[^\s/?#@]+(/[^\s?#]*)?", "is no URL of the form http://HOST:PORT")]
# One that is asked for as it is: what receivers of webhooks and issuers of tokens name may have a query.
WholeUrl = Annotated[
    str, *text(r"https?://[^\s/?#@]+(/[^\s?#]*(\?[^\s#]*)?)?", "is no URL of the form http://HOST:PORT/PATH")
]
_PortName = Annotated[str, *text(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "is no name of a port")]


class RareModel(Model):
    """Base of sections that few files have: pydantic builds their validators with the first one, not at the start."""

    model_config = ConfigDict(defer_build=True)


class KubernetesConfig(RareModel):
    """Where the API server is. Default: the cluster of the pod that Tidegate runs in, with its service account; outside
    of a pod the current context of `KUBECONFIG` or `~/.kube/config`."""

    namespace: KubernetesName | None = None
    """Namespace. Default: the pod's own, or the context's."""
    kubeconfig: FilePath | None = None
    """A kubeconfig file: certificates, tokens, token files and credential plug-ins (`exec`) are understood."""
    context: str | None = Field(default=None, min_length=1)
    """Context of the kubeconfig file. Default: its current one."""
    api: Url | None = None
    """URL of an API server that asks for no credentials, such as `kubectl proxy` gives on `http://127.0.0.1:8001`."""

    @model_validator(mode="after")
    def _one_way(self) -> KubernetesConfig:
        if self.api is not None and (self.kubeconfig is not None or self.context is not None):
            raise problem("api", "api has no credentials: not together with kubeconfig or context")
        return self


class KubernetesSourceConfig(KubernetesConfig):
    """Endpoints are those of a service's EndpointSlices that are ready, and change as the API server's watch says.
    While all of them end, they are those that still serve. Needs the verbs `list` and `watch` of `endpointslices` in
    `discovery.k8s.io`."""

    service: KubernetesName
    """Name of the service; it need not have a cluster address (`clusterIP: None` does)."""
    port: Annotated[Integer, Field(ge=1, le=65_535)] | _PortName | None = None
    """Port of the endpoints, by its name in the service or by the number that pods listen on. Default: the only one."""


class AwsConfig(RareModel):
    """Where and as whom AWS is asked. Credentials are found as by all of AWS's tools: variables of the environment,
    shared files, the role of the container or instance. Needs the extra `tidegate[aws]`."""

    region: str | None = Field(default=None, min_length=1)
    """Region. Default: that of the environment, of the profile, or of the instance."""
    profile: str | None = Field(default=None, min_length=1)
    """Profile of the shared files. Default: `AWS_PROFILE`, else `default`."""
    endpoint_url: Url | None = None
    """URL of another service than AWS's own: a private endpoint, or an emulation. Default: AWS's."""


class AwsSourceConfig(AwsConfig):
    """Endpoints are the targets of a target group that AWS finds healthy, or has begun to check. Needs
    `elasticloadbalancing:DescribeTargetHealth`, and `ec2:DescribeInstances` where targets are instances."""

    target_group: Annotated[str, *text(r"arn:[^\s]+:targetgroup/[^\s]+", "is no ARN of a target group")]
    """ARN of the target group. A target's own port counts; its address is the private one, over IPv4."""
    unchecked: Literal["use", "wait"] = "wait"
    """What becomes of targets that AWS has not checked yet, or does not check: a group that no load balancer of AWS
    uses is never checked (`unused`), so that it needs `use` and the pool a `health` section."""
    interval: Duration = Field(default=10 * SECOND, ge=SECOND)
    """Time between two questions."""


class GcpConfig(RareModel):
    """A managed instance group of Google Cloud, and as whom it is asked about: Application Default Credentials. Needs
    the extra `tidegate[gcp]`."""

    project: str = Field(min_length=1)
    """Project."""
    zone: str | None = Field(default=None, min_length=1)
    """Zone of a zonal group."""
    region: str | None = Field(default=None, min_length=1)
    """Region of a regional group."""
    group: str = Field(min_length=1)
    """Name of the managed instance group."""
    api: Url | None = None
    """URL of another service than Google's own, which is asked without credentials: an emulation. Default: Google's."""

    @model_validator(mode="after")
    def _one_place(self) -> GcpConfig:
        if (self.zone is None) == (self.region is None):
            raise problem("place", "exactly one of zone and region is needed")
        return self


class GcpSourceConfig(GcpConfig):
    """Endpoints are the running instances of a managed instance group. Needs
    `compute.instanceGroupManagers.get` and `compute.instances.list`."""

    port: Integer = Field(ge=1, le=65_535)
    """Port of every endpoint."""
    interval: Duration = Field(default=10 * SECOND, ge=SECOND)
    """Time between two questions."""
