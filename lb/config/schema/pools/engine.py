"""Engines: what runs the replicas of a pool, and how their number is changed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lb.config.schema.base import FilePath, Integer, Number, did_you_mean, only_one, problem, text
from lb.config.schema.pools.platforms import AwsConfig, GcpConfig, KubernetesConfig, KubernetesName, RareModel
from lb.config.units import MINUTE, SECOND, Duration

ENGINES = ("kubernetes", "aws", "gcp", "ray", "external")


class KubernetesEngineConfig(KubernetesConfig):
    """The number of pods of a workload, by its scale subresource. Needs the verbs `get` and `patch` of it (such as
    `deployments/scale`), and for the lease `get`, `list`, `create`, `update` and `delete` of `leases` in
    `coordination.k8s.io`."""

    target: Annotated[
        str,
        *text(
            r"(deployment|statefulset|replicaset|[a-z0-9]+\.[a-z0-9]+\.[a-z0-9.-]+)/[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
            "is no workload such as deployment/chat, statefulset/chat or rollouts.v1alpha1.argoproj.io/chat",
        ),
    ]
    """What is scaled, as `kubectl scale` names it: `deployment/NAME`, `statefulset/NAME`, `replicaset/NAME`, or
    `RESOURCE.VERSION.GROUP/NAME` of anything else that has a scale subresource."""


class AwsEngineConfig(AwsConfig):
    """The desired capacity of an Auto Scaling group. Needs `autoscaling:DescribeAutoScalingGroups` and
    `autoscaling:SetDesiredCapacity`; with `lifecycle_hook` also `autoscaling:CompleteLifecycleAction` and
    `ec2:DescribeInstances`."""

    group: str = Field(min_length=1)
    """Name of the group. Its own minimum and maximum hold as well."""
    lifecycle_hook: str | None = Field(default=None, min_length=1)
    """Name of a hook of the group for instances that are terminated (`autoscaling:EC2_INSTANCE_TERMINATING`). An
    instance that waits in it gets no new requests, and is let go once it has none in flight, or after `drain_timeout`.
    Default: nobody waits."""
    drain_timeout: Duration = Field(default=5 * MINUTE, ge=SECOND)
    """Longest time that an instance may take to finish its requests. The hook's own timeout should be longer."""


class GcpEngineConfig(GcpConfig):
    """The target size of a managed instance group. Needs `compute.instanceGroupManagers.get` and
    `compute.instanceGroupManagers.update`."""


class RayEngineConfig(RareModel):
    """Model servers of `serve` run as actors of a Ray cluster, wherever Ray has room. Needs Ray where Tidegate runs,
    on a node of the cluster, and what `serve` starts on every node."""

    address: str = Field(default="auto", min_length=1)
    """Address of the cluster (`HOST:PORT` of its head), or `auto`: the one that this machine is a node of."""
    python: FilePath | None = None
    """Interpreter that has Ray, of an environment of its own. Default: Tidegate's own."""
    cpus: Number = Field(default=1, ge=0, le=10_000)
    """CPUs that Ray keeps for each model server."""
    gpus: Number = Field(default=0, ge=0, le=1024)
    """GPUs that Ray keeps for each model server, and shows it in `CUDA_VISIBLE_DEVICES`."""
    resources: dict[str, Number] = {}
    """Further resources of Ray for each model server, such as `{accelerator_type:A100: 0.001}`."""


class ExternalEngineConfig(RareModel):
    """Somebody else changes the number of replicas and asks Tidegate how many there should be: the
    HorizontalPodAutoscaler by external metrics (`/apis/external.metrics.k8s.io/v1beta1` of the admin server), or KEDA's
    external scaler."""

    keda: Annotated[str, *text(r"\S+:[0-9]{1,5}", "is no address of the form IP:PORT")] | None = None
    """`IP:PORT` on which KEDA is answered (gRPC, `externalscaler.ExternalScaler`, without TLS). Needs the extra
    `tidegate[keda]`. Default: nobody is answered there."""


class RedisConfig(RareModel):
    """A Redis server, or one that speaks its protocol (Valkey, KeyDB). Needs the extra `tidegate[redis]`."""

    url: Annotated[str, *text(r"(redis|rediss|unix)://\S+", "is no URL such as redis://HOST:6379/0")]
    """`redis://[USER:PASSWORD@]HOST:PORT/DATABASE`, `rediss://…` for TLS, or `unix:///PATH`."""


def expand_redis(value: Any) -> Any:
    """A URL alone is short for a mapping with it."""
    return {"url": value} if isinstance(value, str) else value


class LeaseConfig(RareModel):
    """How several daemons of one pool agree on which of them scales it. They see each other's load, too. Exactly one of
    `kubernetes` and `redis`."""

    kubernetes: KubernetesConfig | None = None
    """By a Lease of Kubernetes, as its own controllers do."""
    redis: Annotated[RedisConfig | None, BeforeValidator(expand_redis, json_schema_input_type=str | RedisConfig)] = None
    """By keys of Redis: a URL, or a mapping."""
    name: KubernetesName | None = None
    """Name that all daemons of the pool have in common. Default: `tidegate-` and the name of the pool."""
    duration: Duration = Field(default=15 * SECOND, ge=3 * SECOND, le=10 * MINUTE)
    """Time after which a daemon that is silent has lost the lease. It is renewed in a seventh of that, and given up by
    one who could not renew it for two thirds."""

    @model_validator(mode="after")
    def _one(self) -> LeaseConfig:
        only_one(self, ("kubernetes", "redis"))
        return self


class EngineConfig(RareModel):
    """Exactly one of the engines, and the limits of the number of replicas."""

    kubernetes: KubernetesEngineConfig | None = None
    """Pods of a workload of Kubernetes."""
    aws: AwsEngineConfig | None = None
    """Instances of an Auto Scaling group."""
    gcp: GcpEngineConfig | None = None
    """Instances of a managed instance group of Google Cloud."""
    ray: RayEngineConfig | None = None
    """Actors of Ray, which run what `serve` says."""
    external: ExternalEngineConfig | None = None
    """Whatever an autoscaler of Kubernetes scales, which asks Tidegate."""
    min: Integer = Field(default=1, ge=0, le=100_000)
    """Fewest replicas. 0: all stop after `idle_timeout`, and the next request has one started and waits for it:
    [To zero](howto/engines.md#to-zero). Not with `ray`: `serve.min` says it."""
    max: Integer = Field(default=10, ge=1, le=100_000)
    """Most replicas. Not with `ray`: `serve.max` says it."""
    idle_timeout: Duration = Field(default=5 * MINUTE, ge=SECOND)
    """With `min: 0`, the time without a request after which all replicas stop. Not with `ray`: `serve.idle_timeout`
    says it."""
    lease: LeaseConfig | Literal["off"] | None = None
    """How several daemons agree on who scales. Default: with `kubernetes` a Lease beside the workload, else `off`:
    this daemon is the only one of the pool."""

    @model_validator(mode="after")
    def _one(self) -> EngineConfig:
        only_one(self, ENGINES)
        if self.min > self.max:
            raise problem("min", f"min is {self.min}, which is more than max, {self.max}")
        return self

    @property
    def on_demand(self) -> bool:
        """Whether the pool may have no replica, and gets one when a request comes."""
        return self.min == 0

    @property
    def kind(self) -> str:
        """Name of the engine."""
        return next(name for name in ENGINES if getattr(self, name) is not None)

    @property
    def options(self) -> Any:
        """The engine's own section."""
        return getattr(self, self.kind)


def expand_engine(value: Any) -> Any:
    """`local` is what a pool with `serve` has anyhow; `ray` and the like are short for the engine with its defaults."""
    if value == "local":
        return None
    if isinstance(value, str) and value not in ENGINES:
        known = ("local", *ENGINES)
        raise problem("engine", f"{value!r} is no engine; there are {', '.join(known)}{did_you_mean(value, known)}")
    return {value: {}} if isinstance(value, str) else value
