"""Batch normalisation folded into exported programs, against the module itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crosscast.pipeline.sources.torch_fold import fold_batch_norms

pytestmark = pytest.mark.e2e


class Twice(nn.Module):
    """What may not be folded: the convolution's own output is read as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Shared(nn.Module):
    """What may not be folded: one convolution before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.conv(self.one(self.conv(x))))


CASES = [
    (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 3, 8, 8), 1),
    (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU()), (2, 4, 8, 8), 1),
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9), 1),
    (nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)), (2, 1, 5, 5, 5), 1),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 8, 8), 0),
    (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), (2, 3, 8, 8), 0),
    (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 8, 8), 0),
    (Twice(), (2, 3, 8, 8), 0),
    (Shared(), (2, 3, 8, 8), 0),
]


def with_statistics(module: nn.Module) -> nn.Module:
    """Fresh statistics (mean 0, variance 1) would hide a wrong fold."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
                if tensor.is_floating_point():
                    tensor.data.uniform_(0.5 if name == "running_var" else -2, 2)
    return module.eval()


@pytest.mark.parametrize(("module", "shape", "expected"), CASES)
def test_the_program_computes_the_same(
    module: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    module = with_statistics(module)
    x = torch.randn(shape)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        program = torch.export.export(module, (x,))
        assert fold_batch_norms(program) == expected
        program.graph.lint()
        torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-5)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), "the author's own module is left alone"
