"""Two processes give the gradient of one with the whole batch."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from training.contrastive.losses import ClipLoss, Sigmoid, SoftTargets
from training.distributed import average_gradients, gather, process_group, rank, world_size

LOSSES = (ClipLoss, partial(ClipLoss, by_image=True), SoftTargets, Sigmoid)


class Pair(nn.Module):
    """Two linear towers, a temperature and a loss: enough for every kind of parameter."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text, self.loss = nn.Linear(6, 4), nn.Linear(5, 4), loss
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images, texts, ids):
        features = gather(self.image(images)), gather(self.text(texts))
        return self.loss(*features, self.logit_scale, gather(ids))


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator), torch.arange(8) // 3


def gradients(pair: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in pair.parameters()]


def one_of_two(number: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with process_group("cpu"):
        assert (number, 2) == (rank(), world_size())
        mine = [part.chunk(2)[number] for part in data()]
        found = []
        for kind in LOSSES:
            pair = Pair(kind())
            pair(*mine).backward()
            average_gradients(pair.parameters())
            found.append(gradients(pair))
        torch.save((gather(mine[2]), found), Path(folder) / f"{number}.pt")


def test_two_processes_give_the_gradient_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_of_two, args=(port, str(tmp_path)), nprocs=2)
    for number in range(2):
        ids, found = torch.load(tmp_path / f"{number}.pt")
        assert torch.equal(ids, data()[2])
        for kind, gradient in zip(LOSSES, found, strict=True):
            pair = Pair(kind())
            pair(*data()).backward()
            torch.testing.assert_close(gradient, gradients(pair), atol=1e-6, rtol=1e-5)


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    x = torch.ones(2, 3, requires_grad=True)
    with process_group("cpu") as device:
        assert (device, rank(), world_size()) == (torch.device("cpu"), 0, 1)
        assert gather(x) is x
        average_gradients([x])
    with process_group("cuda:0" if torch.cuda.is_available() else "cpu"):
        assert world_size() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a card there is nothing to fall back from")
def test_without_cards_the_cpu(caplog):
    with process_group("cuda:0") as device:
        assert device.type == "cpu"
    assert "CUDA is not available" in caplog.text
