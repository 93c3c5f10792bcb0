"""RTP asked by images: an addressed memory and the network that turns an image into a query, learned together.

Deng and Russakovsky, "Remember the Past", NeurIPS 2022, recall by image with queries y of x = y^T A B that are feature vectors of
images, and train feature network, bases and addresses together; how is in an appendix that is not at hand. This is a design of
our own:

    y = softmax(q(shot)),    x_i = y^T A_i B,    min over A, B, q  E  CE(theta_T; real images) + weight * CE(q(shot); class)

A round is RTP's, but what a network is trained on is recalled by `shots` real images of each class of its task instead of by the
classes' names, r images for each shot, and the gradient goes on through the queries into q. q is a network of the run's own kind
with an output a class, so that the memory has addresses for every class and can be asked by name as well. The second term lets q
tell classes apart early, while what the memory holds is still noise. Bases and addresses are updated as in RTP, q by Adam. Of the
metrics `loss` is the whole sum, `memory_loss` its first term (RTP's whole loss), and `query_loss` the second without its weight.

Seen on 8x8 digits, episodes of five classes, where guessing gives 20 percent (recipe recall-digits-image): at the published
rates a memory of a ConvNet was at 40 percent after 600 rounds, its loss on real images still 1.2 of ln 5. One of an MLP,
with bases and addresses twenty times as fast (`lr_syn`), inner steps of three times the rate (`lr_net`), gradients shortened
to .5 (`clip`) and four `shots` a class, was at 81 after 1,000 (80 with five shots; with another seed 79 and 78). That is
what the memory holds: asked by the true names it gives 81.5. The queries are all but names, as q takes 98.9 percent of test
images for their class; so asking by image cannot be better than by the class that q names. With one shot a class these rates
are too fast: what is recalled lets networks diverge now and then, the gradient through the queries grows to more than ten
times that of q's own loss, and memory and q are thrown back; 60 percent after 600 rounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydd import nets
from raydd.distilled import QUERY
from raydd.functional.losses import cross_entropy
from raydd.functional.optim import OptimState, adam_init, adam_step
from raydd.methods.base import Contribution, Slot, Tensors, by_class
from raydd.methods.rtp import RTP

MEMORY = ("bases", "addresses")

# Shapes: as in rtp.py; m shots of a task, r images for each.


class ImageRTP(RTP):
    """Addressable memories that images ask."""

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return `shots` and `real_batch` ids of each class of the slot's task, class by class."""
        count = self.config.shots + self.config.real_batch
        return torch.cat([self.problem.round_ids("real", c, count, round, slot.index) for c in self.task(round, slot)])

    def init(self, x_real: Tensor) -> Tensors:
        """Return bases and addresses as RTP draws them, and the query network."""
        query = nets.initialise(self.net, self.problem.generator("query")).params
        return super().init(x_real) | {f"{QUERY}{name}": value for name, value in query.items()}

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return SGD's state of the memory and Adam's of the query network."""
        query = adam_init({name: value for name, value in variables.items() if name not in MEMORY})
        return super().optimiser(variables) | _flat(query)

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: None, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Return the gradient through one network's training and through the queries; see the base class."""
        task = self.task(round, slot)
        shots, asked, x_real, y_real = self._dealt(round, slot, x_real, y_real)
        given = {name: value.detach().requires_grad_() for name, value in variables.items()}
        logits = self.logits({n.removeprefix(QUERY): v for n, v in given.items() if n not in MEMORY}, shots)
        table = given["addresses"].unflatten(0, (-1, self.addresses))
        codes = torch.einsum("md,drk->mrk", logits.softmax(1), table).flatten(0, 1)
        tape = self.spread(given["bases"], round, slot)
        labels = asked.repeat_interleave(self.addresses)
        # As many shots of every class, one class after the other: each class is a block of rows.
        rows = self.drawn_rows(round, slot, list(range(len(task))), len(codes) // len(task))
        loss, by_codes, by_pixels = self.through(
            round, slot, codes.detach(), labels, rows, tape.detach(), x_real, y_real
        )
        own = cross_entropy(logits, asked)
        total = (codes * by_codes).sum() + (tape * by_pixels).sum() + self.config.query_loss * own
        gradients = torch.autograd.grad(total, list(given.values()))
        return Contribution(
            slot,
            {name: value.contiguous() for name, value in zip(given, gradients, strict=True)},
            {
                "loss": float(loss + self.config.query_loss * own.detach()),
                "memory_loss": float(loss),
                "query_loss": float(own.detach()),
            },
        )

    def _dealt(self, round: int, slot: Slot, x_real: Tensor, y_real: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return shots and their classes, and the other images and theirs; of every class as many shots."""
        shots, rest = [], []
        for c, part in zip(self.task(round, slot), by_class(x_real, y_real), strict=True):
            # A class that is smaller than a batch comes in its own order, and would always ask by the same images.
            order = torch.randperm(len(part), generator=self.problem.generator("shots", round, slot.index, c))
            part = part[order.to(part.device)]
            shots.append(part[: self.config.shots])
            rest.append(part[self.config.shots :])
        classes = torch.tensor(self.task(round, slot), device=x_real.device)

        def labels(parts: list[Tensor]) -> Tensor:
            return classes.repeat_interleave(torch.tensor([len(part) for part in parts], device=classes.device))

        return torch.cat(shots), labels(shots), torch.cat(rest), labels(rest)

    def logits(self, query: Tensors, x: Tensor) -> Tensor:
        """Return what the query network says of images, `(n, classes)`."""
        return nets.apply(self.net, query, nets.fresh_buffers(self.net, x.device), x)

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take RTP's step of the memory, with the gradients of both its tables shortened together, and Adam's of the query."""
        mine = {name: optimiser[name] for name in optimiser if not name.startswith(QUERY)}
        memory, state = super().update(
            round, {n: variables[n] for n in MEMORY}, mine, {n: gradients[n] for n in MEMORY}
        )
        before = OptimState.from_tensors(
            {name.removeprefix(QUERY): value for name, value in optimiser.items() if name.startswith(QUERY)}
        )
        query = {name: value for name, value in variables.items() if name not in MEMORY}
        query, after = adam_step(query, gradients, before, self.config.lr_query)
        return memory | query, state | _flat(after)

    def distilled(self, variables: Tensors) -> Tensors:
        """Return what the memory holds for each class by name, as RTP does, and the query network's numbers."""
        query = {name: value for name, value in variables.items() if name not in MEMORY}
        return super().distilled(variables) | query


def _flat(state: OptimState) -> Tensors:
    return {f"{QUERY}{name}": value for name, value in state.tensors().items()}
