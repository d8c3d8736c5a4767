"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from ``first`` to ``most`` seconds, each shortened by up to half at random.

    The randomness keeps a fleet that lost the same server from coming back in step.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._base = first

    def next(self) -> float:
        """Seconds to wait now."""
        base = self._base
        self._base = min(base * 2, self._most)
        return random.uniform(base / 2, base)

    def reset(self) -> None:
        """Begins anew, after a success."""
        self._base = self._first
