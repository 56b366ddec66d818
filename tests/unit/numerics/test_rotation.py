"""Rotations: orthogonal, of entries of one size where they can be, and unseen from outside the model."""

from __future__ import annotations

import pytest
import torch

from picual.numerics.rotation import (
    hadamard,
    rotate_inputs,
    rotate_outputs,
    rotate_values,
    rotate_values_back,
    rotation,
)

RANDOM = torch.Generator().manual_seed(7)
KNOWN = [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 56, 60, 64, 68, 72, 76, 112, 128, 144, 576, 896, 960]


@pytest.mark.parametrize("size", KNOWN)
def test_a_hadamard_matrix_has_orthogonal_rows_of_ones(size: int) -> None:
    made = hadamard(size)

    assert made is not None
    assert (made.abs() == 1).all()
    assert torch.equal(made @ made.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 5, 6, 9, 10, 18, 92])
def test_sizes_without_a_known_one_are_said_to_have_none(size: int) -> None:
    assert hadamard(size) is None


@pytest.mark.parametrize("size", [1, 2, 3, 28, 64, 92, 100, 576])
def test_rotations_are_orthogonal(size: int) -> None:
    made = rotation(size, seed=1)

    torch.testing.assert_close(made @ made.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [64, 92])
def test_a_seed_gives_one_rotation_and_another_seed_another(size: int) -> None:
    state = torch.get_rng_state()

    assert torch.equal(rotation(size, seed=1), rotation(size, seed=1))
    assert not torch.equal(rotation(size, seed=1), rotation(size, seed=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_both_signs_are_on_the_diagonal_of_the_random_ones_as_often() -> None:
    corners = torch.stack([rotation(3, seed)[0, 0] for seed in range(200)])

    assert 60 < int((corners > 0).sum()) < 140


def test_an_outlier_is_spread_over_all_channels() -> None:
    weight = torch.zeros(4, 576)
    weight[:, 100] = 24.0

    assert torch.allclose(rotate_inputs(weight, rotation(576, seed=0)).abs(), torch.ones(4, 576))


def test_a_layer_that_writes_and_one_that_reads_make_the_same_of_any_input() -> None:
    first, bias, second = (torch.randn(*shape, generator=RANDOM) for shape in ((48, 20), (48,), (10, 48)))
    inputs, turn = torch.randn(20, 6, generator=RANDOM), rotation(48, seed=3)

    hidden = rotate_outputs(first, turn) @ inputs + rotate_outputs(bias, turn)[:, None]
    plain = first @ inputs + bias[:, None]

    torch.testing.assert_close(rotate_inputs(second, turn) @ hidden, second @ plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(hidden, plain)
    torch.testing.assert_close(hidden.T, rotate_inputs(plain.T, turn), rtol=1e-5, atol=1e-5)  # as embeddings are


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (9, 3), (4, 1)])
def test_attention_mixes_rotated_heads_to_the_same_output(heads: int, groups: int) -> None:
    size, width, tokens = 16, 40, 5
    value, bias = torch.randn(groups * size, width, generator=RANDOM), torch.randn(groups * size, generator=RANDOM)
    output = torch.randn(width, heads * size, generator=RANDOM) / width**0.5
    inputs = torch.randn(tokens, width, generator=RANDOM)
    mixing = torch.softmax(torch.randn(heads, tokens, tokens, generator=RANDOM), 2)
    turns = torch.stack([rotation(size, seed) for seed in range(groups)])

    def attention(value: torch.Tensor, bias: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        values = (inputs @ value.T + bias).unflatten(1, (groups, size)).transpose(0, 1)
        repeated = values.repeat_interleave(heads // groups, 0)  # as transformers' repeat_kv
        return (mixing @ repeated).transpose(0, 1).flatten(1) @ output.T

    turned = rotate_values(value, turns), rotate_values(bias, turns), rotate_values_back(output, turns)

    torch.testing.assert_close(attention(*turned), attention(value, bias, output), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(turned[0], value)
    torch.testing.assert_close(turned[0][:size], rotate_outputs(value[:size], turns[0]))


def test_the_type_of_a_weight_stays() -> None:
    turn = rotation(16, seed=0)
    weight = torch.randn(16, 16, generator=RANDOM).bfloat16()

    made = (
        rotate_inputs(weight, turn),
        rotate_outputs(weight, turn),
        rotate_values(weight, turn[None]),
        rotate_values_back(weight, turn[None]),
    )

    assert {each.dtype for each in made} == {torch.bfloat16}
