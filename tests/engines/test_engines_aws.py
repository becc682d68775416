"""AWS as an engine and as a source of endpoints, against moto, an emulation of AWS, as a server of its own process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from engine_contract import PlatformContract
from ports import free_port, wait_for_port

sys.path.insert(0, str(Path(__file__).parents[1] / "discovery"))

from discovery_pools import pool
from source_contract import SourceContract

from lb.clock import ManualClock
from lb.config.schema.pools.engine import AwsEngineConfig
from lb.config.schema.pools.platforms import AwsSourceConfig
from lb.discovery.aws import AwsSource
from lb.engines.aws import AwsEngine
from lb.engines.engine import Inflight
from lb.platforms.error import MissingError, PlatformError

SECOND = 1_000_000_000
REGION = "eu-central-1"


@pytest.fixture(scope="module")
def moto_port() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_port(port)
    yield port
    process.terminate()
    process.wait(20)


class Region:
    """moto's, with a network and an image; clients are slow to make, and one set serves all tests."""

    def __init__(self, url: str) -> None:
        self.url = url
        session = botocore.session.get_session()
        self.ec2, self.asg, self.elb = (
            session.create_client(name, region_name=REGION, endpoint_url=url)
            for name in ("ec2", "autoscaling", "elbv2")
        )
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.0.0/20")["Subnet"]["SubnetId"]
        self.image = self.ec2.describe_images()["Images"][0]["ImageId"]
        self.asg.create_launch_configuration(
            LaunchConfigurationName="models", ImageId=self.image, InstanceType="t3.micro"
        )


class Cloud:
    """An Auto Scaling group of two instances of its own, and a target group."""

    def __init__(self, region: Region, name: str) -> None:
        self.url, self.vpc, self.name = region.url, region.vpc, name
        self.ec2, self.asg, self.elb = region.ec2, region.asg, region.elb
        self.asg.create_auto_scaling_group(
            AutoScalingGroupName=name, LaunchConfigurationName="models", MinSize=0, MaxSize=9, DesiredCapacity=2,
            VPCZoneIdentifier=region.subnet,
        )  # fmt: skip
        self.targets = self.target_group(name, 9001, "ip")

    def target_group(self, name: str, port: int, kind: str) -> str:
        group = self.elb.create_target_group(Name=name, Protocol="HTTP", Port=port, VpcId=self.vpc, TargetType=kind)
        arn: str = group["TargetGroups"][0]["TargetGroupArn"]
        return arn

    @property
    def group(self) -> dict[str, Any]:
        answer = self.asg.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        found: dict[str, Any] = answer["AutoScalingGroups"][0]
        return found


@pytest.fixture(scope="module")
def region(moto_port: int) -> Iterator[Region]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("ACCESS_KEY_ID", "test"),
            ("SECRET_ACCESS_KEY", "test"),
            ("EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(f"AWS_{name}", value)
        yield Region(f"http://127.0.0.1:{moto_port}")


_names = itertools.count(1)


@pytest.fixture
def cloud(region: Region) -> Cloud:
    return Cloud(region, f"models-{next(_names)}")


def engine(cloud: Cloud, clock: ManualClock | None = None, **options: Any) -> AwsEngine:
    section = AwsEngineConfig(**{"group": cloud.name, "region": REGION, "endpoint_url": cloud.url, **options})
    return AwsEngine("chat", section, pool(), clock)


class TestEngine(PlatformContract):
    interval = SECOND  # moto takes its time

    @pytest.fixture(autouse=True)
    def _world(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.engines: list[AwsEngine] = []

    async def build(self) -> AwsEngine:
        self.engines.append(engine(self.cloud))
        return self.engines[-1]

    async def number(self) -> int:
        return int(self.cloud.group["DesiredCapacity"])

    async def set_number(self, number: int) -> None:
        self.cloud.asg.set_desired_capacity(AutoScalingGroupName=self.cloud.name, DesiredCapacity=number)

    async def damage(self) -> None:
        nobody = f"http://127.0.0.1:{free_port()}"
        for one in self.engines:
            await one._aws.close()
            one._aws._options = one.options.model_copy(update={"endpoint_url": nobody})

    async def mend(self) -> None:
        for one in self.engines:
            await one._aws.close()
            one._aws._options = one.options


async def test_the_group_s_own_limits_are_said(cloud: Cloud) -> None:
    ours = engine(cloud)
    seen = await ours.look()
    assert (seen.number, seen.running) == (2, 2)
    assert "limits are 0 to 9" in seen.detail
    with pytest.raises(PlatformError, match="allows 0 to 9 instances, not 50"):
        await ours.change(50, seen)
    await ours.close()


async def test_a_group_that_is_not_there_is_said(cloud: Cloud) -> None:
    ours = engine(cloud, group="nowhere")
    with pytest.raises(MissingError, match="no Auto Scaling group nowhere"):
        await ours.look()
    await ours.close()


async def test_a_warm_pool_counts_apart(cloud: Cloud) -> None:
    cloud.asg.put_warm_pool(AutoScalingGroupName=cloud.name, MinSize=2)
    ours = engine(cloud)
    seen = await ours.look()
    assert (seen.number, seen.running) == (2, 2)
    await ours.close()


class Load(Inflight):
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def at(self, address: str) -> int:
        return self.counts[address]

    def addresses(self) -> tuple[str, ...]:
        return tuple(self.counts)


class Recorder(AwsEngine):
    """moto keeps no instance in Terminating:Wait, so what AWS would say is given, and what is asked is kept; the
    instances and their addresses are moto's."""

    def hold(self, *instances: str) -> None:
        self._group = {"Instances": [{"InstanceId": name, "LifecycleState": "Terminating:Wait"} for name in instances]}
        self.let_go: list[str] = []

    async def _let_go(self, instance: str) -> None:
        self.let_go.append(instance)


async def test_instances_that_end_are_let_go_once_they_are_idle(cloud: Cloud) -> None:
    first, second = (row["InstanceId"] for row in cloud.group["Instances"])
    rows = cloud.ec2.describe_instances(InstanceIds=[first])["Reservations"][0]["Instances"]
    busy = f"{rows[0]['PrivateIpAddress']}:9001"
    clock, load = ManualClock(), Load()
    options = AwsEngineConfig(
        group=cloud.name, region=REGION, endpoint_url=cloud.url, lifecycle_hook="drain", drain_timeout=60 * SECOND
    )
    ours = Recorder("chat", options, pool(), clock)
    ours.hold(first, second)
    load.counts[busy] = 3
    await ours.drain(load)
    assert ours.let_go == []
    await ours.drain(load)
    assert ours.let_go == [second], "two looks without a request"
    ours.hold(first)
    clock.advance(59 * SECOND)
    await ours.drain(load)
    assert ours.let_go == []
    clock.advance(2 * SECOND)
    await ours.drain(load)
    assert ours.let_go == [first], "its time is over"
    await ours.close()


async def test_the_lifecycle_action_is_completed_as_aws_has_it(cloud: Cloud) -> None:
    cloud.asg.put_lifecycle_hook(
        LifecycleHookName="drain",
        AutoScalingGroupName=cloud.name,
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
    )
    ours = engine(cloud, lifecycle_hook="drain")
    await ours.drain(Load())  # nothing is held
    await ours.look()
    await ours.drain(Load())
    await ours.close()


def source(cloud: Cloud, **options: Any) -> AwsSource:
    settings = {"target_group": cloud.targets, "region": REGION, "endpoint_url": cloud.url, **options}
    return AwsSource("chat", AwsSourceConfig(**settings), pool())


class TestSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _world(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.there: list[dict[str, Any]] = []
        self.broken = False

    def build(self) -> AwsSource:
        ours = source(self.cloud, unchecked="use")
        look = ours.look

        async def watched() -> Any:
            if self.broken:
                await ours._aws.close()
                ours._aws._options = ours.options.model_copy(update={"endpoint_url": f"http://127.0.0.1:{free_port()}"})
            elif ours._aws._options != ours.options:
                await ours._aws.close()
                ours._aws._options = ours.options
            return await look()

        ours.look = watched  # type: ignore[method-assign]
        return ours

    def put(self, hosts: list[str]) -> None:
        self.broken = False
        if self.there:
            self.cloud.elb.deregister_targets(TargetGroupArn=self.cloud.targets, Targets=self.there)
        self.there = [{"Id": host, "Port": 9001} for host in hosts]
        self.cloud.elb.register_targets(TargetGroupArn=self.cloud.targets, Targets=self.there)

    def damage(self) -> None:
        self.broken = True


@pytest.mark.parametrize(
    ("state", "unchecked", "given"),
    [
        ("healthy", "wait", True),
        ("unhealthy", "use", False),
        ("draining", "use", False),
        ("initial", "wait", False),
        ("initial", "use", True),
        ("unused", "wait", False),
        ("unused", "use", True),
    ],
)
async def test_states_of_targets(cloud: Cloud, state: str, unchecked: str, given: bool) -> None:
    ours = source(cloud, unchecked=unchecked)

    async def call(*_: Any, **__: Any) -> Any:
        target = {"Id": "10.0.0.1", "Port": 9001, "AvailabilityZone": "eu-1a"}
        return {"TargetHealthDescriptions": [{"Target": target, "TargetHealth": {"State": state}}]}

    ours._aws.call = call  # type: ignore[method-assign]
    found = (await ours.look()).endpoints
    assert [(e.address, e.zone) for e in found] == ([("10.0.0.1:9001", "eu-1a")] if given else [])
    await ours.close()


async def test_targets_that_are_instances_have_their_private_addresses(cloud: Cloud) -> None:
    arn = cloud.target_group(f"{cloud.name}-i", 8001, "instance")
    names = [row["InstanceId"] for row in cloud.group["Instances"]]
    cloud.elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": name} for name in names])
    ours = source(cloud, target_group=arn, unchecked="use")
    rows = cloud.ec2.describe_instances(InstanceIds=names)["Reservations"]
    ips = sorted(i["PrivateIpAddress"] for row in rows for i in row["Instances"])
    assert [e.address for e in (await ours.look()).endpoints] == [f"{ip}:8001" for ip in ips]
    await ours.close()
