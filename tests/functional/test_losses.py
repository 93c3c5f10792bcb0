import pytest
import torch

from raydd.functional import losses


def test_mse_by_hand():
    pred = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    assert losses.mse(pred, target).item() == (0.5 * (4 + 9) + 0.5 * 4) / 2


def test_label_margin_by_hand():
    """Margins 0.2 and 5; the second counts as 1/3."""
    y_syn = torch.tensor([[0.5, 0.1, 0.3], [7.0, 2.0, -1.0]])
    assert losses.label_margin(y_syn).item() == pytest.approx(-(0.2 + 1 / 3) / 2)


def test_label_margin_pulls_only_on_the_two_largest_of_close_labels():
    y_syn = torch.tensor([[0.5, 0.1, 0.3], [7.0, 2.0, -1.0]], requires_grad=True)
    losses.label_margin(y_syn).backward()
    torch.testing.assert_close(y_syn.grad, torch.tensor([[-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]))


def test_label_margin_of_initial_labels_is_the_cap_only_where_they_are_apart_enough():
    hard = torch.arange(10)
    assert losses.label_margin(losses.scaled_labels(hard, 10)).item() == pytest.approx(-0.1)


def test_centred_labels():
    labels = losses.centred_labels(torch.tensor([2, 0]), 4)
    assert labels.tolist() == [[-0.25, -0.25, 0.75, -0.25], [0.75, -0.25, -0.25, -0.25]]
    assert labels.dtype == torch.float32


def test_scaled_labels():
    assert torch.equal(losses.scaled_labels(torch.arange(10), 10), losses.centred_labels(torch.arange(10), 10))
    by_ten = losses.scaled_labels(torch.tensor([3]), 1000)
    assert by_ten[0, 3].item() == pytest.approx(0.999 / 10)
    assert by_ten[0, 4].item() == pytest.approx(-0.001 / 10)


def test_cross_entropy_of_hard_and_soft_labels():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    hard = losses.cross_entropy(logits, torch.tensor([0, 2])).item()
    assert hard == pytest.approx(-(torch.tensor(0.5).log() + torch.tensor(0.8).log()).item() / 2)
    soft = losses.cross_entropy(logits, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])).item()
    assert soft == pytest.approx((0.5 * 0.6931472 + 0.5 * 1.3862944 + 0.2231436) / 2, rel=1e-5)


def test_gradient_of_the_squared_error():
    gen = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, generator=gen, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(losses.mse, inputs)
