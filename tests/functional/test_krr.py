import numpy as np
import pytest
import scipy.linalg
import torch

from raydd.functional.krr import krr_predict


def tensors(m=6, d=20, b=5, c=3, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=gen, dtype=torch.float64) for shape in ((m, d), (m, c), (b, d))]


@pytest.mark.parametrize("ridge", [1e-6, 0.3])
@pytest.mark.parametrize("m", [1, 6, 30])
def test_equals_the_solution_by_scipy(ridge, m):
    f_syn, y_syn, f_target = tensors(m=m)
    kernel = f_syn.numpy() @ f_syn.numpy().T
    shifted = kernel + ridge * np.trace(kernel) / m * np.eye(m)
    expected = (f_target @ f_syn.T).numpy() @ scipy.linalg.solve(shifted, y_syn.numpy(), assume_a="gen")
    np.testing.assert_allclose(krr_predict(f_syn, y_syn, f_target, ridge).numpy(), expected, rtol=1e-6, atol=1e-8)


def test_equals_ridge_regression_by_normal_equations():
    """With few features the primal problem, min |F w - y|^2 + lambda |w|^2, has the same predictions."""
    f_syn, y_syn, f_target = (t.numpy() for t in tensors(m=12, d=4))
    shift = 0.1 * (f_syn**2).sum() / 12
    weights = np.linalg.solve(f_syn.T @ f_syn + shift * np.eye(4), f_syn.T @ y_syn)
    got = krr_predict(*(torch.from_numpy(a) for a in (f_syn, y_syn, f_target)), ridge=0.1)
    np.testing.assert_allclose(got.numpy(), f_target @ weights, rtol=1e-9)


def test_by_hand():
    """K = diag(1, 4), ridge 0.4 of the mean 2.5 is 1: predictions are 1/2 and 4/5 of the labels."""
    f_syn = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    got = krr_predict(f_syn, torch.tensor([[6.0], [10.0]]), f_syn, ridge=0.4)
    torch.testing.assert_close(got, torch.tensor([[3.0], [8.0]]))


def test_scale_of_the_features_does_not_matter():
    f_syn, y_syn, f_target = tensors()
    big = krr_predict(100 * f_syn, y_syn, 100 * f_target, 1e-2)
    torch.testing.assert_close(big, krr_predict(f_syn, y_syn, f_target, 1e-2))


def test_interpolates_its_own_labels():
    f_syn, y_syn, _ = tensors()
    torch.testing.assert_close(krr_predict(f_syn, y_syn, f_syn), y_syn, rtol=1e-3, atol=1e-4)


def test_gradient():
    inputs = [t.requires_grad_() for t in tensors(m=3, d=5, b=2, c=2)]
    assert torch.autograd.gradcheck(lambda f, y, t: krr_predict(f, y, t, 0.05), inputs)


def test_float32_stays_float32():
    f_syn, y_syn, f_target = tensors()
    single = krr_predict(f_syn.float(), y_syn.float(), f_target.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), krr_predict(f_syn, y_syn, f_target), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_kernel_that_is_not_positive_definite_gives_nan(value):
    f_syn, y_syn, f_target = tensors()
    assert krr_predict(torch.full_like(f_syn, value), y_syn, f_target).isnan().all()
