"""Moments that arrive in batches are those of all rows at once."""

from __future__ import annotations

import torch

from gpt2fast.compress.calibration.moments import SecondMoment


def test_batches_give_the_moments_of_all_rows() -> None:
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) + 3.0
    moment = SecondMoment(7)
    for batch in rows.split(33):
        moment.add(batch)
    exact = rows.double()
    assert moment.count == 200
    torch.testing.assert_close(moment.matrix, exact.T @ exact / 200, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moment.mean, exact.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moment.square, (exact**2).mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moment.covariance, exact.T.cov(correction=0), rtol=1e-5, atol=1e-5)


def test_float64_rows_are_summed_exactly() -> None:
    rows = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moment = SecondMoment(5)
    moment.add(rows[:20])
    moment.add(rows[20:])
    torch.testing.assert_close(moment.matrix, rows.T @ rows / 50, rtol=1e-13, atol=1e-13)


def test_nothing_is_not_an_error() -> None:
    assert SecondMoment(3).matrix.abs().sum() == 0
