"""What torch says of operations without a deterministic kernel is understood, also where no GPU is there to say it."""

import pytest

from lightbed.runs.kernels import operation


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "put_ does not have a deterministic implementation, but you set",
            "put_",
        ),
        ("kthvalue CUDA does not have a deterministic implementation, but you set", "kthvalue CUDA"),
        (
            "UserWarning: grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set",
            "grid_sampler_2d_backward_cuda",
        ),
        (
            "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly enable determinism",
            "Memory Efficient attention",
        ),
        ("Flash Attention defaults to a non-deterministic algorithm.", "Flash Attention"),
        ("shapes differ", None),
    ],
)
def test_the_operation_is_named(text: str, name: str | None) -> None:
    assert operation(text) == name
