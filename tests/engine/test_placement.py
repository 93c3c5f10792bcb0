"""Where workers go, and which shapes a cluster may be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from raydd.config import EngineConfig
from raydd.engine import cluster
from raydd.errors import ConfigError

pytestmark = pytest.mark.ray


def test_inside_a_placement_group_its_bundles_are_used(ray_address: str) -> None:
    """As in a trial of Ray Tune: the first bundle is the trial's own."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    @ray.remote(num_cpus=0.1)
    def trial() -> tuple[list[int], list[int], bool]:
        from raydd.engine.openings import Openings

        openings = Openings(EngineConfig(workers=3))
        first = openings.fill(3, 2, 100)
        bundles = sorted(hand.place.bundle for hand in first)
        first[0].dismiss()
        again = openings.fill(2, 1, 100)
        ours = any(hand.place.ours for hand in again)
        return bundles, [first[0].place.bundle, *(hand.place.bundle for hand in again)], ours

    # Two workers, kept by the tests before this one, leave room.
    group = placement_group([{"CPU": 0.1}, {"CPU": 1}, {"CPU": 1}])
    try:
        strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=0)
        bundles, (lost, *replaced), ours = ray.get(trial.options(scheduling_strategy=strategy).remote(), timeout=200)
    finally:
        remove_placement_group(group)
    assert bundles == [1, 2]
    assert replaced == [lost], "the place of a worker that was lost is free for the next"
    assert not ours


@pytest.mark.parametrize(
    ("alive", "groups", "grows", "refused"),
    [
        ([{"CPU": 4.0}], None, False, True),
        ([{}, {"CPU": 4.0}], None, False, True),
        ([{}, {"CPU": 4.0}], None, True, False),
        ([{}, {"CPU": 4.0}], [({"CPU": 4.0}, 8)], True, True),
        ([{"CPU": 4.0}], [({"CPU": 64.0}, 8)], True, False),
        ([{"CPU": 4.0}], [({"CPU": 64.0}, 0)], True, True),
    ],
)
def test_a_shape_that_a_growing_cluster_may_have(
    alive: list[dict[str, float]],
    groups: list[tuple[dict[str, float], int]] | None,
    grows: bool,
    refused: bool,
    monkeypatch: pytest.MonkeyPatch,
    ray_address: str,
) -> None:
    import ray
    from ray._private.state import state
    from ray.core.generated import autoscaler_pb2

    config: Any = None
    if groups is not None:
        config = autoscaler_pb2.ClusterConfig()
        for resources, most in groups:
            config.node_group_configs.add(resources={k: int(v) for k, v in resources.items()}, max_count=most)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": size} for size in alive])
    monkeypatch.setattr(state, "get_cluster_config", lambda: config)
    monkeypatch.setattr(cluster, "_grows", lambda: grows)
    engine = EngineConfig(workers=1, cpus_per_worker=64)
    if refused:
        with pytest.raises(
            ConfigError, match=r"engine.cpus_per_worker must be <= 4, the CPUs of the largest node .* got 64"
        ):
            cluster.connect(engine)
    else:
        cluster.connect(engine)
