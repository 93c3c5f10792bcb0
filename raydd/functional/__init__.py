"""The mathematics, as pure functions of tensors: losses, kernel ridge regression, optimiser steps, the training loop.

Nothing is imported here, so that `recipe` and `schedules` can be had without torch.
"""
