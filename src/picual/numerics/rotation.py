"""Rotations of what flows between layers: outliers spread over all channels, and the model computes the same.

With an orthogonal R, W x = (W R)(R^T x): a layer that reads takes W R, the layer before it that writes R^T W.
A Hadamard matrix spreads best, since all its entries are of one size; random signs in front of it make it one
of many. For sizes without a known one a random orthogonal matrix stands in.

R1 turns the residual stream: embeddings E R, readers W R, writers R^T W, after every norm's gain is folded into
its readers. R2 turns each head's values: W_v <- R^T W_v, W_o <- W_o R; no norm is in between.

Cost: one multiplication of every weight by a square matrix, nothing at run time.
Sources: Ashkboos et al., "QuaRot", arXiv 2404.00456; Liu et al., "SpinQuant", arXiv 2405.16406;
Paley, "On Orthogonal Matrices", 1933.
"""

from __future__ import annotations

import torch


def rotation(size: int, seed: int) -> torch.Tensor:
    """Return a random orthogonal R (size, size), float64: signs times a Hadamard matrix where one is known."""
    generator = torch.Generator().manual_seed(seed)
    known = hadamard(size)
    if known is None:
        return _random_orthogonal(size, generator)
    signs = torch.randint(0, 2, (size, 1), generator=generator).double() * 2 - 1
    made: torch.Tensor = signs * known / size**0.5
    return made


def hadamard(size: int) -> torch.Tensor | None:
    """Return a matrix (size, size) of 1 and -1 with orthogonal rows, float64; None where none is known here.

    Known are 1, 2, Paley's sizes p + 1 (p a prime, p % 4 == 3) and 2 (p + 1) (p % 4 == 1), so 12, 20, 28, 36,
    44, 60, 68, 76 and more, and all of them times a power of two.
    """
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if _is_prime(size - 1) and size % 4 == 0:
        return _paley_first(size - 1)
    if size % 4 == 0 and _is_prime(size // 2 - 1) and (size // 2 - 1) % 4 == 1:
        return _paley_second(size // 2 - 1)
    half = hadamard(size // 2) if size % 2 == 0 else None
    return None if half is None else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), half)


def rotate_inputs(weight: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return W R (N, K) for a layer (or embeddings, whose rows are read) that is now given R^T x."""
    return (weight.double() @ rotation.double()).to(weight.dtype)


def rotate_outputs(weight: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return R^T W for a layer (N, K) that now gives R^T y, or R^T b for its bias (N,)."""
    return (rotation.double().T @ weight.double()).to(weight.dtype)


def rotate_values(weight: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Return the value projection with every head's outputs rotated.

    Args:
        weight: W_v (G * d, K), or its bias (G * d,): G key-value heads of width d.
        rotations: (G, d, d).
    """
    heads = weight.double().unflatten(0, (len(rotations), -1))
    return torch.einsum("gij,gi...->gj...", rotations.double(), heads).flatten(0, 1).to(weight.dtype)


def rotate_values_back(weight: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Return the output projection that takes ``rotate_values``' heads.

    Args:
        weight: W_o (N, H * d): H query heads, a multiple of G; H / G neighbours share a key-value head.
        rotations: (G, d, d).
    """
    groups, size, _ = rotations.shape
    heads = weight.double().unflatten(1, (groups, -1, size))  # (N, G, H / G, d)
    return torch.einsum("ngri,gij->ngrj", heads, rotations.double()).flatten(1).to(weight.dtype)


def _paley_first(prime: int) -> torch.Tensor:
    """Return I + S for the skew S = [[0, 1], [-1, Q]], Q the residues' matrix: size p + 1, p % 4 == 3."""
    skew = _bordered(prime)
    skew[1:, 0] = -1
    return skew + torch.eye(prime + 1, dtype=torch.float64)


def _paley_second(prime: int) -> torch.Tensor:
    """Return C = [[0, 1], [1, Q]] with 2 x 2 matrices for its entries: size 2 (p + 1), p % 4 == 1."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(_bordered(prime), signs) + torch.kron(torch.eye(prime + 1, dtype=torch.float64), diagonal)


def _bordered(prime: int) -> torch.Tensor:
    """Return [[0, 1], [1, Q]] with Q_ij = 1 where i - j is a square modulo p, -1 where it is none, 0 for i = j."""
    characters = torch.full((prime,), -1.0, dtype=torch.float64)
    characters[[number * number % prime for number in range(1, prime)]] = 1
    characters[0] = 0
    places = torch.arange(prime)
    bordered = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    bordered[0, 0] = 0
    bordered[1:, 1:] = characters[(places[:, None] - places) % prime]
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _random_orthogonal(size: int, generator: torch.Generator) -> torch.Tensor:
    basis, upper = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    # Without the signs not every rotation would be as likely: Mezzadri, arXiv math-ph/0609050.
    made: torch.Tensor = basis * upper.diagonal().sign()
    return made
