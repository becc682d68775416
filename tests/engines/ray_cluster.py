"""A cluster of Ray on this machine, for a test in another process; run it with an interpreter that has Ray.

Prints `address ADDRESS`. Each line on standard input is an order: `kill` ends the last node as a loss of power would,
`add` adds one; `done` is printed after each. The cluster ends with its input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    nodes = [cluster.add_node(**small)]
    print(f"address {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        elif line.strip() == "add":
            nodes.append(cluster.add_node(**small))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
