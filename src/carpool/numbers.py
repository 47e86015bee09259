"""Sets and maps of numbers that lie close together, as those of rows do: a byte for each, or eight, and no objects."""

from array import array

_BITS = 10
_PAGE = 1 << _BITS
_LAST = _PAGE - 1
_NONE = 2**64 - 1  # stands where there is nothing


class NumberSet:
    """Hold numbers, a byte each."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> _BITS)
        return page is not None and page[number & _LAST] > 0

    def add(self, number: int) -> None:
        """Add a number."""
        page = self._pages.get(number >> _BITS)
        if page is None:
            page = self._pages[number >> _BITS] = bytearray(_PAGE)
        page[number & _LAST] = 1

    def discard(self, number: int) -> None:
        """Take a number out, if it is here."""
        page = self._pages.get(number >> _BITS)
        if page is not None:
            page[number & _LAST] = 0


class NumberMap:
    """Map numbers to others, below 2**64 - 1, eight bytes each; what is taken out leaves no room behind."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}
        self._counts: dict[int, int] = {}  # entries of each page

    def __bool__(self) -> bool:
        return bool(self._pages)

    def __contains__(self, number: int) -> bool:
        return self.get(number, _NONE) != _NONE

    def __setitem__(self, number: int, other: int) -> None:
        key, place = number >> _BITS, number & _LAST
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = array("Q", (_NONE,)) * _PAGE
            self._counts[key] = 0
        self._counts[key] += page[place] == _NONE
        page[place] = other

    def get(self, number: int, otherwise: int) -> int:
        """Give what a number stands for."""
        page = self._pages.get(number >> _BITS)
        other = _NONE if page is None else page[number & _LAST]
        return otherwise if other == _NONE else other

    def pop(self, number: int, otherwise: int) -> int:
        """Take a number out, and give what it stood for."""
        other = self.get(number, _NONE)
        if other == _NONE:
            return otherwise
        key = number >> _BITS
        self._pages[key][number & _LAST] = _NONE
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._pages[key], self._counts[key]
        return other
