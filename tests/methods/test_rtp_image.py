"""Memories asked by images: the gradient through the queries, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import cross_entropy

from raydd import nets
from raydd.config import NETS
from raydd.distilled import QUERY
from raydd.errors import ConfigError, UserError
from raydd.memories import ask
from raydd.methods.rtp_image import ImageRTP
from raydd.seeding import generator
from tests.methods import toy

DATA = toy.data((4, 9, 6, 7, 5), channels=3)


def make(**options: object) -> ImageRTP:
    method = toy.make("rtp", DATA, address="image", shots=2, augment=None, chunk=100, **options)
    assert isinstance(method, ImageRTP)
    return method


def test_gradient_goes_through_memory_and_queries() -> None:
    method = make(query_loss=0.5)
    start = {n: (10 if n in ("bases", "addresses") else 1) * v for n, v in method.init(torch.empty(0)).items()}
    given = {name: value.double().requires_grad_() for name, value in start.items()}
    slot = method.slots(2)[3]
    ids = method.real_ids(2, slot)
    images, labels = DATA.images[ids].double(), DATA.labels[ids]
    task = method.task(2, slot)
    shots, rest, truth = [], [], []
    for c in task:
        part = images[labels == c]
        part = part[torch.randperm(len(part), generator=generator(0, "shots", 2, 3, c))]
        shots.append(part[:2])
        rest.append(part[2:])
        truth += [c] * len(part[2:])
    asked = torch.tensor(task).repeat_interleave(2)
    logits = nets.apply(
        method.net, {n.removeprefix(QUERY): v for n, v in given.items() if QUERY in n}, {}, torch.cat(shots)
    )
    r = method.addresses
    small = torch.einsum(
        "md,drk,kchw->mrchw", logits.softmax(1), given["addresses"].unflatten(0, (5, r)), given["bases"]
    )
    pictures = F.interpolate(small.flatten(0, 1), scale_factor=2, mode="bilinear", align_corners=False)
    net = nets.initialise(method.net, generator(0, "net", 2, 3)).to(dtype=torch.float64)
    weights = {name: value.requires_grad_() for name, value in net.params.items()}
    velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
    for rows in method.drawn_rows(2, slot, [0, 1, 2, 3], 2 * r):
        loss = cross_entropy(nets.apply(method.net, weights, {}, pictures[rows]), asked[rows // r])
        gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        velocity = {name: 0.9 * v + g for (name, v), g in zip(velocity.items(), gradient, strict=True)}
        weights = {name: w - 0.05 * velocity[name] for name, w in weights.items()}
    loss = cross_entropy(nets.apply(method.net, weights, {}, torch.cat(rest)), torch.tensor(truth))
    own = cross_entropy(logits, asked)
    expected = torch.autograd.grad(loss + 0.5 * own, list(given.values()))

    found = method.contribution(2, slot, {n: v.detach() for n, v in given.items()}, {}, None, images, labels)
    parts = {"memory_loss": loss.item(), "query_loss": own.item()}
    assert found.metrics == pytest.approx({"loss": (loss + 0.5 * own).item(), **parts}, rel=1e-10)
    for name, value in zip(given, expected, strict=True):
        assert torch.allclose(found.gradients[name], value, rtol=1e-7, atol=1e-12), name
        assert value.any(), name


def test_a_round_goes_on_from_its_tensors() -> None:
    """What a checkpoint holds is all there is: memory by SGD with momentum, query network by Adam."""
    method = make()
    variables = method.init(torch.empty(0))
    optimiser = method.optimiser(variables)
    gradients = {name: torch.ones_like(value) for name, value in variables.items()}
    one, state = method.update(0, variables, optimiser, gradients)
    two, _ = method.update(1, one, dict(state), gradients)
    # Adam's first steps are of its rate's length, whatever the gradient's.
    moved = next(name for name in variables if name.startswith(QUERY))
    torch.testing.assert_close(variables[moved] - one[moved], torch.full_like(one[moved], 1e-3), rtol=1e-3, atol=1e-7)
    # With momentum 0.5 the second step of the memory is half as long again.
    torch.testing.assert_close(one["bases"] - two["bases"], 1.5 * (variables["bases"] - one["bases"]))


def test_the_set_can_be_asked_by_name_and_by_image() -> None:
    method = make()
    variables = method.init(torch.empty(0))
    made = method.distilled(variables)
    assert made["labels"].tolist() == [c for c in range(5) for _ in range(method.addresses)]
    extras = {name: value for name, value in made.items() if name not in ("images", "labels")}
    net = NETS["convnet"].model_validate({"width": 4, "depth": 2}).resolved(DATA.facts).model_dump()
    queries = ask(extras, net, DATA.images[:3])
    assert queries.shape == (3, 5)
    torch.testing.assert_close(queries.sum(1), torch.ones(3))
    expected = method.logits({n.removeprefix(QUERY): v for n, v in variables.items() if QUERY in n}, DATA.images[:3])
    torch.testing.assert_close(queries, expected.softmax(1))
    with pytest.raises(UserError, match=r"^recall by image needs a memory learned with method.address image"):
        ask({"bases": made["bases"], "addresses": made["addresses"]}, net, DATA.images[:3])


def test_more_shots_than_images() -> None:
    with pytest.raises(ConfigError, match=r"^method.shots must be < the images of the smallest class \(4\), got 4$"):
        toy.make("rtp", DATA, address="image", shots=4)
