from __future__ import annotations

import pytest

from raydd.config import NETS
from raydd.errors import ConfigError
from raydd.evaluate import Accuracy, arrange, parse_grid, parse_nets
from raydd.evaluate.grid import expand
from raydd.evaluate.matrix import short_nets


def result(set: str | None, net: str, mean: float = 50.0, of: str = "distilled", **more: object) -> Accuracy:
    numbers = {"mean": mean, "std": 1.25, "repeats": 2, "each": [mean, mean], "images": 1, "storage_bytes": 1}
    return Accuracy(of=of, protocol="dc", net=net, set=set, **{**numbers, **more})


def test_sources_and_targets():
    table = arrange([result(s, n, mean) for s, n, mean in [("a", "mlp", 10), ("a", "lenet", 20), ("b", "mlp", 30)]])
    assert (table.rows, table.columns) == (("a", "b"), ("mlp", "lenet"))
    assert {place: cell.mean for place, cell in table.cells.items()} == {
        ("a", "mlp"): 10,
        ("a", "lenet"): 20,
        ("b", "mlp"): 30,
    }
    assert list(table.lines()) == [
        f"   {'mlp':>15}  {'lenet':>15}",
        f"a  {'10.00 +- 1.25':>15}  {'20.00 +- 1.25':>15}",
        f"b  {'30.00 +- 1.25':>15}  {'-':>15}",
    ]


def test_rows_of_baselines():
    assert arrange([result("a", "mlp"), result("a", "mlp", of="random")]).rows == ("a", "random")
    several = arrange([result("a", "mlp"), result("a", "mlp", of="random"), result("b", "mlp")])
    assert several.rows == ("a", "random for a", "b")
    assert arrange([result(None, "mlp")]).rows == ("distilled",)


def test_columns_tell_what_differs():
    table = arrange(
        [
            result("a", "mlp", augment="dsa:color", lr=0.1),
            result("a", "mlp", augment=None, lr=0.1),
            result("a", "mlp", augment="dsa:color", lr=0.1, predictor="krr"),
            result("a", "", predictor="knn"),
        ]
    )
    assert table.columns == ("mlp", "mlp plain", "mlp krr", "knn")
    table = arrange([result("a", "mlp", labels="soft"), result("a", "mlp", labels="hard")])
    assert table.columns == ("mlp dc soft", "mlp dc hard")


def test_networks_are_named_by_what_they_do_not_share():
    texts = ["convnet:width=8,depth=2", "convnet:width=16,depth=2", "lenet", "mlp:width=128"]
    assert list(short_nets(texts).values()) == ["convnet:width=8", "convnet:width=16", "lenet", "mlp"]


def test_a_grid_is_every_combination():
    nets = expand(NETS["convnet"](act="swish"), parse_grid(["width=8,16", "norm=none, batch"]))
    assert [(net.width, net.norm, net.act) for net in nets] == [
        (8, "none", "swish"),
        (8, "batch", "swish"),
        (16, "none", "swish"),
        (16, "batch", "swish"),
    ]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["width"], r"--grid expects OPTION=VALUE,VALUE such as width=32,64, got 'width'"),
        (["width="], r"--grid expects"),
        (["=3"], r"--grid expects"),
        (["width=1,,2"], r"--grid expects"),
        (["width=1,1"], r"got a value of width twice in 'width=1,1'"),
        (["width=1", "width=2"], r"got the option width twice in 'width=2'"),
    ],
)
def test_a_grid_that_is_none(texts: list[str], told: str):
    with pytest.raises(ConfigError, match=told):
        parse_grid(texts)


@pytest.mark.parametrize(
    ("net", "told"),
    [
        ("convnet", r"the network convnet, which has only act, depth, norm, pool, width; got 'breadth'"),
        ("lenet", r"the network lenet, which has no options; got 'breadth'"),
    ],
)
def test_an_option_that_no_network_has(net: str, told: str):
    with pytest.raises(ConfigError, match=told):
        expand(NETS[net](), {"breadth": ["1"]})


@pytest.mark.parametrize(
    ("text", "nets"),
    [
        ("convnet,resnet18", ["convnet", "resnet18"]),
        ("convnet:width=32,depth=2,resnet18", ["convnet:width=32,depth=2", "resnet18"]),
        ("convnet:width=32:depth=2,mlp:width=8", ["convnet:width=32,depth=2", "mlp:width=8"]),
        ("convnet,width=32,", ["convnet:width=32"]),
        ("", []),
    ],
)
def test_networks_are_read_as_results_print_them(text: str, nets: list[str]) -> None:
    assert parse_nets(text) == nets
