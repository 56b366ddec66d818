"""What a node says of itself, and what is refused for it; the cluster itself runs in the integration tests."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from picual.errors import EnvironmentFault, JobLost, NotEnough
from picual.executors.ray import cluster, on_node
from picual.executors.ray.cluster import LOOK_SECONDS, Cluster, Need, Node, connect, require_fit

HERE = ".".join(map(str, sys.version_info[:3]))


class Small(Cluster):
    """A cluster whose nodes are told, not asked."""

    def nodes(self) -> list[Node]:
        return [Node("b", "10.0.0.2", 8, 16_000_000_000, 1), Node("a", "10.0.0.1", 4, 8_000_000_000, 0)]


def test_a_node_that_does_not_see_the_share_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    require_fit("10.0.0.1", on_node.look(str(tmp_path), "token"), tmp_path)

    with pytest.raises(EnvironmentFault, match=r"10\.0\.0\.1 does not see") as caught:
        require_fit("10.0.0.1", on_node.look(str(tmp_path / "elsewhere"), "token"), tmp_path)
    assert "`share: DIR`" in caught.value.hint


def test_a_node_with_another_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    seen = on_node.look(str(tmp_path), "token") | {"python": "3.9.1"}

    with pytest.raises(EnvironmentFault, match=r"runs Python 3\.9\.1") as caught:
        require_fit("10.0.0.1", seen, tmp_path)
    assert HERE.rpartition(".")[0] in caught.value.hint


@pytest.mark.parametrize(("need", "said"), [
    (Need(16), "16 cores"), (Need(2, memory=20_000_000_000), "20.0 GB"), (Need(2, gpus=2), "2 GPUs"),
    (Need(8, memory=16_000_000_001), "8 cores and 16.0 GB"),
])  # fmt: skip
def test_what_no_node_has_is_refused(need: Need, said: str) -> None:
    with pytest.raises(NotEnough) as caught:
        Small("x").options(need)

    assert said in caught.value.what
    assert "the largest has 8 cores" in caught.value.what


def test_a_timing_takes_all_of_the_largest_node_and_others_what_they_need() -> None:
    assert Small("x").options(Need(2, alone=True))["num_cpus"] == 8
    assert Small("x").options(Need(2, memory=1000, gpus=1)) == {"num_cpus": 2, "num_gpus": 1, "memory": 1000}
    assert Small("x").room(Need(4)) == 3
    assert Small("x").room(Need(1, memory=8_000_000_000)) == 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_where_nobody_listens_no_cluster_is_waited_for(address: str) -> None:
    began = time.monotonic()

    with pytest.raises(EnvironmentFault, match="no Ray cluster answers") as caught:
        connect(address)

    assert caught.value.where == address
    assert "ray start --head" in caught.value.hint
    assert time.monotonic() - began < LOOK_SECONDS / 2


@pytest.mark.parametrize("share", ["file", "file/below"])
def test_a_share_that_cannot_be_written_is_named(tmp_path: Path, share: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EnvironmentFault, match="cannot write to the folder") as caught:
        Small("x").require_share(tmp_path / share)

    assert caught.value.where == str(tmp_path / share)


def test_a_head_that_is_gone_is_noticed_before_ray_ends_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD_PAUSE", 0.0)
    monkeypatch.setattr(cluster, "HEAD_SECONDS", 0.2)
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"
    watched = Cluster("auto", head=address)
    for _ in range(4):
        time.sleep(0.1)
        watched.require_head()
    head.close()

    watched.require_head()
    time.sleep(0.3)
    with pytest.raises(JobLost, match="has not answered for") as caught:
        watched.require_head()

    assert caught.value.where == address
