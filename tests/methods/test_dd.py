from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from raydd import nets
from raydd.config import NETS, DataFacts
from raydd.config.methods import DDConfig
from raydd.errors import ConfigError, DataError, IntegrityError
from raydd.functional.losses import cross_entropy
from raydd.methods.base import Slot
from raydd.methods.dd import DD, crop_flip, step_sizes
from raydd.nets.stored import Networks, keep_network, list_networks
from raydd.seeding import generator
from raydd.store import Folder
from tests.methods import toy

FACTS = DataFacts(name="mnist", channels=1, size=28, num_classes=10, smallest_class=5421)
DATA = toy.data()


def test_defaults_are_the_papers() -> None:
    mnist = DDConfig().resolved(FACTS)
    assert (mnist.ipc, mnist.inner_steps, mnist.inner_epochs, mnist.lr_inner) == (10, 10, 3, 0.02)
    assert (mnist.lr_syn, mnist.beta1_syn, mnist.decay_epochs, mnist.real_batch) == (0.01, 0.5, 40, 1024)
    assert (mnist.inits_per_round, mnist.augment, mnist.learn_labels, mnist.init) == (1, None, False, "noise")
    cifar = DDConfig().resolved(DataFacts(name="cifar10", channels=3, size=32, num_classes=10, smallest_class=5000))
    assert (cifar.lr_inner, cifar.augment) == (0.001, "crop_flip")
    # 400 epochs of CIFAR-10's 50,000 images, 49 batches of 1024 each.
    assert cifar.rounds == 400 * math.ceil(50_000 / 1024)


@pytest.mark.parametrize(("ipc", "steps"), [(1, 1), (10, 10), (50, 10), (12, 6), (7, 7), (11, 1)])
def test_steps_share_the_images_evenly(ipc: int, steps: int) -> None:
    assert DDConfig(ipc=ipc).resolved(FACTS).inner_steps == steps


def test_steps_that_do_not_divide_the_images_are_refused() -> None:
    message = r"method.ipc must be a multiple of method.inner_steps \(4\), since .*, got 10"
    with pytest.raises(ConfigError, match=message):
        DDConfig(ipc=10, inner_steps=4).resolved(FACTS)


def test_step_sizes_start_where_the_config_says() -> None:
    method = toy.make("dd", DATA, lr_inner=0.02, inner_epochs=3)
    raw = method.init(torch.empty(0))["raw_lr"]
    assert raw.shape == (3, 2)
    assert torch.allclose(step_sizes(raw), torch.full((3, 2), 0.02))


def test_gradient_is_that_of_the_paper_written_out() -> None:
    """Two steps, two passes, in float64: plain autograd through Eq. (4), by images and by raw step sizes."""
    method = toy.make("dd", DATA, augment=None, learn_labels=False, chunk=100)
    gen = generator(0, "test")
    x = torch.randn(method.init(torch.empty(0))["x_syn"].shape, generator=gen, dtype=torch.float64).requires_grad_()
    raw = torch.randn(2, 2, generator=gen, dtype=torch.float64).sub(3).requires_grad_()
    slot = method.slots(5)[1]
    ids = method.real_ids(5, slot)
    x_real, y_real = DATA.images[ids].double(), DATA.labels[ids]

    net = method.network(5, slot).to(dtype=torch.float64)
    weights = {name: value.requires_grad_() for name, value in net.params.items()}
    # Step by step and in it class by class: images 0 to 9 are step 0, two of each of the five classes.
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    for eta, part in zip(F.softplus(raw).flatten(), (0, 1, 0, 1), strict=True):
        loss = cross_entropy(nets.apply(method.net, weights, {}, x[10 * part : 10 * part + 10]), y)
        gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - eta * g for (name, w), g in zip(weights.items(), gradient, strict=True)}
    loss = cross_entropy(nets.apply(method.net, weights, {}, x_real), y_real)
    by_x, by_raw = torch.autograd.grad(loss, (x, raw))

    variables = {"x_syn": x.detach(), "raw_lr": raw.detach()}
    given = method.contribution(5, slot, variables, {}, None, x_real, y_real)
    assert given.metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert torch.allclose(given.gradients["x_syn"], by_x, rtol=1e-9, atol=1e-14)
    assert torch.allclose(given.gradients["raw_lr"], by_raw, rtol=1e-9, atol=1e-14)


def test_real_images_start_step_by_step() -> None:
    method = toy.make("dd", DATA, init="real", learn_labels=False)
    ids = method.init_ids()
    x = method.init(DATA.images[ids])["x_syn"]
    labels = method.distilled({"x_syn": x, "raw_lr": torch.zeros(2, 2)})["labels"].argmax(1)
    by_image = {image.numpy().tobytes(): int(label) for image, label in zip(DATA.images, DATA.labels, strict=True)}
    assert [by_image[image.numpy().tobytes()] for image in x] == labels.tolist()
    assert len({image.numpy().tobytes() for image in x}) == 20


def test_a_fixed_network_is_the_same_in_every_round_and_goes_with_the_set() -> None:
    method = toy.make("dd", DATA, net_init="fixed")
    first, second = method.slots_all[:2]
    fixed = method.network(0, first).tensors()
    assert toy.same_bits(fixed, method.network(7, second).tensors())
    result = method.distilled(method.init(torch.empty(0)))
    assert {n.removeprefix("init."): v for n, v in result.items() if n.startswith("init.")}.keys() == fixed.keys()
    assert all(torch.equal(result[f"init.{name}"], value) for name, value in fixed.items())


def test_random_networks_differ_by_round_and_slot() -> None:
    method = toy.make("dd", DATA)
    first, second = method.slots_all[:2]
    drawn = [method.network(*key).tensors() for key in ((0, first), (1, first), (0, second))]
    assert not toy.same_bits(drawn[0], drawn[1])
    assert not toy.same_bits(drawn[0], drawn[2])
    assert not any(name.startswith("init.") for name in method.distilled(method.init(torch.empty(0))))


def test_the_rate_halves_after_so_many_passes() -> None:
    """31 real images in batches of 9 are 4 rounds a pass; Adam's first step is as long as its rate."""
    method = toy.make("dd", DATA, decay_epochs=2, lr_syn=0.01)
    variables = {"x_syn": torch.zeros(3)}
    for round, rate in ((0, 0.01), (7, 0.01), (8, 0.005), (16, 0.0025)):
        after, _ = method.update(round, variables, method.optimiser(variables), {"x_syn": torch.ones(3)})
        assert after["x_syn"].tolist() == pytest.approx([-rate] * 3, rel=1e-5)


def test_labels_are_learned_only_when_asked() -> None:
    fixed, learned = (toy.make("dd", DATA, learn_labels=flag) for flag in (False, True))
    assert fixed.init(torch.empty(0)).keys() == {"x_syn", "raw_lr"}
    variables = learned.init(torch.empty(0))
    assert torch.equal(variables["y_syn"], fixed.distilled(fixed.init(torch.empty(0)))["labels"])


def test_crop_flip_reads_a_reflected_border() -> None:
    x = torch.arange(2 * 8 * 8.0).reshape(2, 1, 8, 8)
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    seen = set()
    for seed in range(40):
        for image, whole in zip(crop_flip(x, generator(seed, "crop")), padded, strict=True):
            places = [
                (top, left, mirrored)
                for top in range(9)
                for left in range(9)
                for mirrored in (False, True)
                if torch.equal(image.flip(-1) if mirrored else image, whole[:, top : top + 8, left : left + 8])
            ]
            assert places
            seen.update(places)
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_networks_that_steps_start_from(tmp_path: Path) -> None:
    """Known: always the first of the list; drawn: any of them, by the key of round and slot, whatever was asked before."""
    folder = Folder(str(tmp_path))
    plain = toy.make("dd", DATA)
    states = [nets.initialise(plain.net, generator(k, "trained")) for k in range(3)]
    url = list_networks(folder, [keep_network(folder, state) for state in states])
    made = {}
    for net_init in ("fixed", "random"):
        config = plain.config.model_copy(update={"net_init": net_init, "init_from": url})
        made[net_init] = DD(config, NETS["convnet"](width=4, depth=2), replace(plain.problem, networks=Networks(url)))
    slots = made["random"].slots(0)

    def which(method: DD, round: int, slot: Slot) -> int:
        found = method.network(round, slot).params["classifier.weight"]
        (place,) = [k for k, state in enumerate(states) if torch.equal(found, state.params["classifier.weight"])]
        return place

    assert {which(made["fixed"], r, slot) for r in range(5) for slot in slots} == {0}
    drawn = [which(made["random"], r, slot) for r in range(8) for slot in slots]
    assert set(drawn) == {0, 1, 2}
    assert drawn == [which(made["random"], r, slot) for r in range(8) for slot in slots]
    kept = made["fixed"].distilled(made["fixed"].init(torch.empty(0)))
    assert torch.equal(kept["init.params.classifier.weight"], states[0].params["classifier.weight"])
    with pytest.raises(ConfigError, match=r"method\.init_from must hold networks as the section net says"):
        DD(plain.config, NETS["convnet"](width=8, depth=2), replace(plain.problem, networks=Networks(url)))


def test_networks_that_are_not_what_they_were(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    plain = toy.make("dd", DATA)
    name = keep_network(folder, nets.initialise(plain.net, generator(0, "trained")))
    listed = Networks(list_networks(folder, [name, "0" * 64]))
    assert len(listed) == 2
    with pytest.raises(IntegrityError, match=r"expected a network at .*0000.safetensors, got no file"):
        listed[1]
    (tmp_path / f"{name}.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="is not what its name says"):
        listed[0]
    with pytest.raises(DataError, match=r"expected a list of networks at .*nothing.json, got no file"):
        Networks(f"{folder.url}/nothing.json")
    folder.write_json("odd.json", {"networks": [1]})
    with pytest.raises(DataError, match=r"expected a list of networks at .*odd.json, got \[1\]"):
        Networks(f"{folder.url}/odd.json")
