"""Objects of one kind that are alive, whoever else holds them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Living(Generic[Item]):
    """Knows objects as long as somebody else does.

    Other than a set of weak references, it can be gone through while objects come and go on other
    threads, as at a fork or at the end of the program.
    """

    def __init__(self) -> None:
        self._by_address: weakref.WeakValueDictionary[int, Item] = weakref.WeakValueDictionary()

    def add(self, item: Item) -> None:
        """Know an object."""
        self._by_address[id(item)] = item

    def __iter__(self) -> Iterator[Item]:
        for reference in self._by_address.valuerefs():
            item = reference()
            if item is not None:
                yield item
