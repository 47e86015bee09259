"""What each line of INPUT asks for, or what is wrong with it: pure."""

import zlib
from typing import TypeAlias

import msgspec

from ...providers.openai import ENDPOINTS
from .endings import Refused

BOM = b"\xef\xbb\xbf"
NO_NAME = b"null"
CRC = 0xFFFF_FFFF
ASKED, MADE_UP = b"row", b"emulated"  # what ids in OUTPUT begin with: no answer that is made up passes for another


class _Numbered(msgspec.Struct, frozen=True, gc=False):
    """Tell a row of INPUT from others: by its number among them, from 1, and the crc of what it asks for.

    `line` counts the lines, from 1; `name` is the custom_id, as JSON.
    """

    key: int
    line: int
    name: bytes

    @property
    def number(self) -> int:
        """Give its number."""
        return self.key >> 32

    @property
    def crc(self) -> int:
        """Give its crc."""
        return self.key & CRC


class Row(_Numbered, frozen=True, gc=False):
    """Hold one request; the journal knows it by its key, and OUTPUT by the same in letters."""

    url: str
    body: bytes

    @property
    def sign(self) -> int:
        """Tell it from others, in 32 bits, which are even and not 0."""
        return (self.key & CRC - 1) or 2


class Bad(_Numbered, frozen=True, gc=False):
    """Say why a line is no request; it has a name as far as that can be read."""

    why: str

    @property
    def sign(self) -> int:
        """Tell it from others, in 32 bits, which are odd."""
        return self.key & CRC | 1


Rows: TypeAlias = list[Row | Bad]


class _Line(msgspec.Struct, gc=False):
    custom_id: msgspec.Raw = msgspec.Raw(NO_NAME)
    method: str | None = None
    url: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"")


class _Named(msgspec.Struct, gc=False):
    custom_id: msgspec.Raw = msgspec.Raw(NO_NAME)


_decode = msgspec.json.Decoder(_Line).decode
_decode_name = msgspec.json.Decoder(_Named).decode
_SEEDS = {url: zlib.crc32(url.encode()) for url in ENDPOINTS}
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class Parser:
    """Make rows of lines, in their order; bodies that come bare are for the `endpoint`."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self.number: int = 0
        self.line: int = 0

    def feed(self, lines: list[bytes]) -> Rows:
        """Give the rows of the next lines; blank ones hold none."""
        rows: Rows = []
        for line, text in enumerate(lines, self.line + 1):
            try:
                entry = _decode(text)
                url = entry.url
                seed = _SEEDS[url]  # type: ignore[index]  # None is in it no more than other names
                body, name = bytes(entry.body), bytes(entry.custom_id)  # copies: a view would keep the line alive
            except (KeyError, *_UNREADABLE):
                if text and not text.isspace():
                    rows.append(self._read_oddity(text, line))
                continue
            if entry.method == "POST" and body[:1] == b"{" and name.isascii():
                self.number = number = self.number + 1
                key = number << 32 | zlib.crc32(body, seed)
                rows.append(Row(key, line, name, url, body))  # type: ignore[arg-type]
            else:
                rows.append(self._read_oddity(text, line))
        self.line += len(lines)
        return rows

    def _read_oddity(self, text: bytes, line: int) -> Row | Bad:
        """Take the lines that the straight way does not."""
        self.number += 1
        text = text.removeprefix(BOM).strip()
        try:
            name, url, body = _asked(text, self._endpoint)
        except ValueError as exc:
            if self.number == 1 and self._endpoint is None and _is_bare(text):
                raise Refused(f"INPUT holds bare bodies: name their endpoint, --endpoint {ENDPOINTS[0]}.") from None
            return Bad(self.number << 32 | zlib.crc32(text), line, _name_of(text), str(exc))
        return Row(self.number << 32 | zlib.crc32(body, _SEEDS[url]), line, name, url, body)


def _asked(text: bytes, endpoint: str | None) -> tuple[bytes, str, bytes]:
    """Give custom_id, url and body; ValueError says what is wrong."""
    entry = _read(text)
    body = bytes(entry.body)
    if not body and endpoint is not None and entry.url is None and bytes(entry.custom_id) == NO_NAME:
        return NO_NAME, _checked_url(endpoint), text
    if not body:
        raise ValueError("the row has no body" if endpoint else "the row has no body; bare bodies need --endpoint")
    if body[:1] != b"{":
        raise ValueError("the body is no JSON object")
    if entry.method not in (None, "POST"):
        raise ValueError(f"the method is {entry.method!r}, and batches know POST alone")
    url = entry.url or endpoint
    if url is None:
        raise ValueError("the row has no url, and there is no --endpoint")
    return bytes(entry.custom_id), _checked_url(url), body


def _read(text: bytes) -> _Line:
    try:
        entry = _decode(text)
        bytes(entry.custom_id).decode()
    except msgspec.ValidationError as exc:
        raise ValueError(f"no row: {exc}") from None
    except UnicodeDecodeError:
        raise ValueError("no UTF-8") from None
    except msgspec.DecodeError as exc:
        raise ValueError(f"no JSON: {exc}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    return entry


def _is_bare(text: bytes) -> bool:
    """Tell whether a line is the body of a request, and no row that names one."""
    try:
        entry = _read(text)
    except ValueError:
        return False
    return entry.url is None and not bytes(entry.body) and bytes(entry.custom_id) == NO_NAME


def check_endpoint(endpoint: str | None) -> None:
    """Raise `Refused` for one that has no batches; None is none."""
    try:
        _checked_url(endpoint or ENDPOINTS[0])
    except ValueError as exc:
        raise Refused(f"--endpoint: {exc}.") from None


def _checked_url(url: str) -> str:
    if url not in _SEEDS:
        raise ValueError(f"no batches for the endpoint {url[:100]!r}; there are some for {', '.join(ENDPOINTS)}")
    return url


def _name_of(text: bytes) -> bytes:
    try:
        name = bytes(_decode_name(text).custom_id)
        name.decode()
    except _UNREADABLE:
        return NO_NAME
    return name
