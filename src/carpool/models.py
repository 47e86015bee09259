"""Frozen values that every floor may hold."""

import json
from array import array
from collections.abc import Generator, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

Body: TypeAlias = Mapping[str, Any] | str | bytes
Value = TypeVar("Value")


class _Call(msgspec.Struct, frozen=True):
    """Hold what `Request` takes by position."""

    endpoint: str
    body: Body


class Request(_Call, frozen=True, kw_only=True):
    """Name an endpoint and the body to send there.

    `body` is a mapping, or ready JSON as str or bytes, which travels unchanged. A journal knows a request again by its
    `key`, or else by endpoint and body; without a journal the key has no meaning. `timeout` is how many seconds it may
    wait for its answer. Where a model's queue is limited, what has a higher `priority` goes first, in batches of its
    own. `tags` are names under which `Stats` counts it, and that its batch's metadata tells. None is what the pool, or
    `carpool.options`, says.

    `output` is a type, a pydantic model, a msgspec Struct or a dataclass, whose strict schema goes into a body of chat
    completions or Responses, so that the answer can be read with `Response.parse`.
    """

    key: str | int | None = None
    timeout: float | None = None
    priority: int | None = None
    tags: tuple[str, ...] | None = None
    output: type[Any] | None = None


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """Hold a call that may travel: its model, its body on one line, and the embedding inputs in it."""

    endpoint: str
    model: str
    body: bytes
    inputs: int


class Usage(NamedTuple):
    """Count the tokens that one answer cost; the cached ones are among those of the input."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int


class Response(msgspec.Struct, frozen=True, gc=False):
    """Hold one answer; its body stays bytes until asked for.

    That to a live call is of no batch: its `batch_id` is "", and so is its `custom_id` where it never was to be in one.
    """

    custom_id: str
    batch_id: str
    request_id: str
    status_code: int
    content: bytes

    def json(self) -> Any:
        """Decode the body; raises ValueError where it is no JSON."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError:
            return json.loads(self.content)  # reads half a surrogate pair, which models do write

    @property
    def text(self) -> str:
        """Give the first answer's text, of chat completions, Responses or completions; "" where there is none.

        Raises ValueError where the body is no JSON; what stands beside a chat completion's text may be read over.
        """
        text = _chat_text(self.content)
        return _text(self.json()) if text is None else text

    @property
    def usage(self) -> Usage | None:
        """Give the tokens the provider counted; None where the body has no `usage`."""
        try:
            return _usage(_billed.decode(self.content).usage)  # the rest is passed over: embeddings take milliseconds
        except msgspec.DecodeError:
            body = self.json()
            return _usage(body.get("usage") if isinstance(body, dict) else None)

    def parse(self, output: type[Value]) -> Value:
        """Give the first answer's text as a validated object: a pydantic model, a msgspec Struct, a dataclass.

        Raises `OutputInvalid` where the model refused, was cut off or filtered, or wrote what does not fit, and
        `ConfigurationError` for a type that cannot be read from JSON.
        """
        from .structured import parse  # it imports this module

        return parse(self, output)

    def vectors(self) -> Any:
        """Give the embeddings, in the order of the inputs: a numpy array of float32, of shape (inputs, dimensions).

        Where numpy is not installed it is a list of `array.array("f")`. Raises `OutputInvalid` where there are none.
        """
        from .vectors import vectors  # it imports this module

        return vectors(self)

    def __repr__(self) -> str:
        return f"<Response {self.custom_id} {self.status_code} of {self.batch_id}: {len(self.content)} bytes>"


class _Billed(msgspec.Struct, gc=False):
    usage: Any = None


_billed = msgspec.json.Decoder(_Billed)


class _Message(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Chat(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None


_chat = msgspec.json.Decoder(_Chat)


def _chat_text(content: bytes) -> str | None:
    """Read the text of a chat completion and pass over the rest: in a third of the time."""
    try:
        choices = _chat.decode(content).choices
    except msgspec.DecodeError:  # another shape, or half a surrogate pair
        return None
    return choices[0].message.content if choices and choices[0].message else None


def _text(body: Any) -> str:
    match body:
        case {"choices": [{"message": {"content": str(text)}}, *_]} | {"choices": [{"text": str(text)}, *_]}:
            return text
        case {"output": list(output)}:
            return "".join(_output_texts(output))
    return ""


def _output_texts(output: list[Any]) -> Generator[str, None, None]:
    for part in output:
        match part:
            case {"type": "message", "content": list(pieces)}:
                yield from (p["text"] for p in pieces if isinstance(p, dict) and isinstance(p.get("text"), str))


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return Usage(
        usage.get("prompt_tokens") or usage.get("input_tokens") or 0,
        usage.get("completion_tokens") or usage.get("output_tokens") or 0,
        (details.get("cached_tokens") or 0) if isinstance(details, dict) else 0,
    )


# --- what travels between the floors -------------------------------------------------------------------------------


class Queue(NamedTuple):
    """Name what has an enqueued-token limit of its own: a model, and apart from it its long prompts (contracts A9)."""

    model: str
    long: bool


class Lane(NamedTuple):
    """Name what may share an input file: one endpoint and one model (contracts A2), one queue, and one priority."""

    endpoint: str
    model: str
    long: bool = False
    priority: int = 0

    @property
    def queue(self) -> Queue:
        """Name the queue: a model's, whatever the endpoint."""
        return Queue(self.model, self.long)


class Load(NamedTuple):
    """Measure what rows weigh in a queue: the `tokens` of those that were counted, the bytes of those that were not."""

    tokens: int
    size: int

    def plus(self, other: "Load", sign: int = 1) -> "Load":
        """Add, or take off with `sign` -1."""
        return Load(self.tokens + sign * other.tokens, self.size + sign * other.size)


class Run(msgspec.Struct, frozen=True, gc=False):
    """Name rows that lie side by side in one spool segment.

    `rows` are their numbers ('Q'), `sizes` the bytes of their lines with the newline ('I'), `inputs` the embedding
    inputs of each ('I'), None where the endpoint does not count them, `tokens` the prompt tokens of each ('I'), None
    where they were not counted. Packed arrays: 12 bytes a row, and one BLOB each where they are recorded.
    """

    segment: int
    offset: int
    rows: "array[int]"  # quoted: the class takes no subscript before Python 3.12
    sizes: "array[int]"
    inputs: "array[int] | None" = None
    tokens: "array[int] | None" = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Sum the bytes."""
        return sum(self.sizes)

    @property
    def load(self) -> Load:
        """Measure what it weighs in a queue."""
        return Load(0, self.size) if self.tokens is None else Load(sum(self.tokens), 0)

    def part(self, start: int, stop: int, offset: int | None = None) -> "Run":
        """Cut out the rows at positions `start` to `stop`; `offset` is where they lie, if that is known already."""
        return Run(
            self.segment,
            self.offset + sum(self.sizes[:start]) if offset is None else offset,
            self.rows[start:stop],
            self.sizes[start:stop],
            None if self.inputs is None else self.inputs[start:stop],
            None if self.tokens is None else self.tokens[start:stop],
        )


class Sought(NamedTuple):
    """Name uploads of which no reply told: `size` bytes, by the client key, not before `since`."""

    key: str
    size: int
    since: float


class Leftovers(msgspec.Struct, frozen=True, gc=False):
    """Name what a batch that is over leaves at the provider: files, and uploads that may have arrived."""

    file_ids: tuple[str, ...]
    sought: Sought | None = None


class PackedBatch(msgspec.Struct, frozen=True, gc=False):
    """Describe one input file: its lane, the ranges of the spool it is made of, and the client key it is known by.

    `tokens` is what it is expected to weigh in its queue; `again` is true when an earlier upload, made after the time
    `packed_at`, may have arrived though no reply came. `tags` are those of its calls.
    """

    key: str
    lane: Lane
    runs: tuple[Run, ...]
    size: int
    tokens: int = 0
    again: bool = False
    packed_at: float = 0.0
    tags: tuple[str, ...] = ()

    @property
    def sought(self) -> Sought:
        """Name its uploads."""
        return Sought(self.key, self.size, self.packed_at)


class BatchProblem(msgspec.Struct, frozen=True, gc=False):
    """Repeat one entry of a batch's `errors.data`; `line` counts from 1, None where no line is named."""

    code: str
    message: str
    line: int | None


class NoRoom(msgspec.Struct, frozen=True, gc=False):
    """Repeat a refusal for lack of room in the queue; `limit` is the one it states, in tokens, None without one."""

    limit: int | None


NO_REPLY = "no_reply"  # in place of a status, where a batch was asked for and nothing usable came back


class BatchStatus(msgspec.Struct, frozen=True, gc=False):
    """Say how a remote batch stands; fields the provider left out or gave as "" are None (contracts A4).

    `answered` rows came to an end, `succeeded` of them well; `input_tokens` are those of the latter; `no_room` is set
    where the batch failed because the queue is full.
    """

    id: str
    key: str | None
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    answered: int | None = None
    problems: tuple[BatchProblem, ...] = ()
    no_room: NoRoom | None = None
    succeeded: int | None = None
    input_tokens: int | None = None


NEWEST = ""  # the place of the page that begins with the newest batch of all


class Page(msgspec.Struct, frozen=True, gc=False):
    """Say which of the batches that were looked for one page of the account's listing shows, the newest first.

    One that begins at `place` shows all of them, and `next` is the place of what follows, None where nothing does.
    Places stay what they are, as batches that are created later come before them; `NEWEST` alone moves.
    """

    remote_ids: tuple[str, ...]
    place: str
    next: str | None


class Standings(NamedTuple):
    """Say how batches stand, and on which pages of the listing that was read."""

    statuses: list[BatchStatus]
    pages: tuple[Page, ...]


class Row(msgspec.Struct, frozen=True, gc=False):
    """Hold one line of an output or error file; `status_code` is 0 and `code` set where no HTTP reply was had.

    `offset` and `size` say where the line lies in its file, in bytes.
    """

    custom_id: str
    status_code: int
    request_id: str
    body: bytes
    code: str = ""
    message: str = ""
    offset: int = 0
    size: int = 0

    @property
    def ok(self) -> bool:
        """Tell an answer from a failure: 2xx and no error beside it (contracts A7)."""
        return not self.code and 200 <= self.status_code < 300


def are_ok(rows: Iterable[Row]) -> list[bool]:
    """Tell which of these rows are `ok`, without a call for each."""
    return [not row.code and 200 <= row.status_code < 300 for row in rows]


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """Tell of one time that a request was sent and not answered; `batch_id` is None where no batch was created.

    `status_code` is None where no HTTP reply was had; `code` and `message` are the provider's own.
    """

    batch_id: str | None
    status_code: int | None
    code: str | None
    message: str


class FileLimits(msgspec.Struct, frozen=True, gc=False):
    """Bound one input file, and the batches created in an hour."""

    requests: int
    bytes: int
    inputs: int
    creations_per_hour: int


NOT_SUBMITTED = "not_submitted"  # code: uploads or creations failed for long, and nothing was paid
OUT_OF_REACH = "out_of_reach"  # code: a batch cannot be reached for long, and is looked for all the same
OUT_OF_MONEY = frozenset({"billing_hard_limit_reached", "insufficient_quota"})  # codes: the account may spend no more


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Say why a step of a batch, or a request, failed.

    Of a step: `busy` (refused for now: the same call may be repeated), `lost` (no reply: it may have happened),
    `full` (no room in the queue, whose limit may be stated, in tokens), `gone` (no such object). Of requests: how they
    end, see `outcomes`.
    """

    kind: Literal[
        "busy",
        "lost",
        "full",
        "gone",
        "rejected",
        "expired",
        "cancelled",
        "missing",
        "failed",
        "auth",
        "address",
        "disk",
        "budget",
        "closed",
    ]
    message: str
    status_code: int | None = None
    code: str | None = None
    limit: int | None = None


class CallFailed(Exception):
    """Carry a `Failure` out of a flow; it never reaches a user."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Upload(msgspec.Struct, frozen=True, gc=False):
    """Describe the file part of a multipart form: `size` bytes, streamed from the spool's `runs`."""

    filename: str
    runs: tuple[Run, ...]
    size: int


class Call(msgspec.Struct, frozen=True, gc=False):
    """Describe one HTTP exchange below the base URL.

    `repeat` says that sending it twice does no harm. At most one of `json` and `form` (with `upload`) is set.
    `patience` is how many seconds the reply may let wait for it, where that is longer than usual.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    repeat: bool
    query: dict[str, str] = {}
    json: bytes | None = None
    form: dict[str, str] | None = None
    upload: Upload | None = None
    patience: float | None = None


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Hold what came back; `status` 0 means that no reply came, and `body` then says why.

    `rest` is how many seconds the server asks to let pass before the next call of this kind.
    """

    status: int
    body: bytes
    rest: float = 0.0


T = TypeVar("T")
Flow: TypeAlias = Generator[Call, Reply, T]
