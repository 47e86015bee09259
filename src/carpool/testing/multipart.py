"""A multipart form, read as it arrives: fields in memory, the file straight into its content."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .refusals import Refused
from .store import Content

FIELD_BYTES = 65_536
BESIDE_BYTES = 1_000_000  # fields, headers and what else is around the file


@dataclass
class Form:
    """Hold what was sent; `filename` is None where no file was."""

    content: Content
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_form(content_type: str, stream: AsyncIterable[bytes], content: Content, most: int) -> Form:
    """Read a form whose file has at most so many bytes.

    Raises Refused: 400 for what is no form, 413 for what is too large, once the rest of it was drained.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(400, "The request must be multipart/form-data with a boundary.")
    parts = Parts(Form(content), most)
    refused: Refused | None = None
    received = drained = 0
    try:
        parser = parts.parser(options[b"boundary"])
    except FormParserError:
        raise Refused(400, "The boundary of the form is too long.") from None
    async for chunk in stream:
        if refused is not None:
            # A reply to a client that still sends would be lost in the reset that follows it: so read on, for a while.
            drained += len(chunk)
            if drained > most:
                break
            continue
        received += len(chunk)
        try:
            parser.write(chunk)
            if received - content.size > BESIDE_BYTES:
                raise Refused(413, "The form holds too much beside its file.")
        except Refused as exc:
            refused = exc
        except FormParserError:
            refused = Refused(400, "The form could not be parsed.")
    if refused is not None:
        raise refused
    content.seal()
    return parts.form


class Parts:
    """Take the callbacks of the parser, and sort parts into fields and the file."""

    def __init__(self, form: Form, most: int) -> None:
        self.form = form
        self._most = most
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._text = bytearray()

    def parser(self, boundary: bytes) -> MultipartParser:
        """Give a parser that calls this."""
        return MultipartParser(
            boundary,
            {
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_end,
            },
        )

    def _on_header_field(self, chunk: bytes, start: int, end: int) -> None:
        self._header += chunk[start:end]

    def _on_header_value(self, chunk: bytes, start: int, end: int) -> None:
        self._value += chunk[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in options and self._name == "file"
        if self._is_file:
            self.form.filename = options[b"filename"].decode(errors="replace")

    def _on_data(self, chunk: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._text += chunk[start:end]
            if len(self._text) > FIELD_BYTES:
                raise Refused(413, f"The form field '{self._name}' is too large.")
            return
        self.form.content.write(chunk[start:end])
        if self.form.content.size > self._most:
            raise Refused(413, f"The file is larger than the {self._most:,} bytes allowed.")

    def _on_end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._text.decode(errors="replace")
        self._text.clear()
        self._is_file = False
