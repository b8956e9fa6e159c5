"""What one party sees of a run, recorded on the wire between the parties' processes.

A relay stands before every party: what another party sends it passes through, and is kept byte for byte with its time
of arrival. The parties speak brpc's own framing: "PRPC", the length of what follows and of its first part in four
bytes each, that part (a protocol buffer that names the service and numbers the call), and a push request (another one)
with the sender's rank, a key and a value. The value is what the protocol sent; the rest is the transport's.

A party's view of a run is its share of every input, and every message of the protocol that it receives, in which it
finds shares, masked values that are opened, and ciphertexts. With the party's own coins that is all it can learn from:
what it sends, it computes from these. Its share of the output follows from them too. The transport's own messages
(connecting, acknowledging by number, closing, answering a call) belong to no one run, and are not kept.
"""

import contextlib
import queue
import re
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

_NUMBERS = re.compile(r"\d+")
_MAGIC = b"PRPC"
_COUNTER = "\x01\x02"  # between a key and the number of the message
_RUN = re.compile(r"root-(\d+)")  # the parties make one link for each run: root-0, root-1, ...
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Message:
    """One message that a party received.

    Attributes:
        sender: The rank of the party that sent it.
        key: The name under which the receiver waits for it, for example ":P2P-3:0->1": it counts the messages.
        payload: What the protocol sent.
        header: The rest of what crossed the wire for it: lengths, call numbers, the key.
        seconds: When it had arrived in full, since the run's first message.
    """

    sender: int
    key: str
    payload: bytes
    header: bytes
    seconds: float

    @property
    def kind(self) -> str:
        """The key without its counters: messages of one kind come from the same place in the protocol."""
        return f"from {self.sender}: {_NUMBERS.sub('#', self.key)}"


@dataclass(frozen=True)
class PartyView:
    """Everything that reaches one party in one run.

    Attributes:
        rank: Whose view it is.
        inputs: Its share of every input array, as the client delivered it, without SPU's own wrapping.
        messages: What it received of the other parties, sorted by sender and key: between senders, and between
            messages that are under way at once, the order of arrival is the scheduler's; `seconds` has it.
    """

    rank: int
    inputs: tuple[bytes, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Push:
    """One push request as it crossed the wire.

    Attributes:
        sender: Rank.
        key: With the message's number.
        value: The payload, or one chunk of it.
        offset: Where the chunk begins.
        header: The frame without the value.
        arrived: When its last byte did, by the monotonic clock.
    """

    sender: int
    key: str
    value: bytes
    offset: int
    header: bytes
    arrived: float


class _Stream:
    """One direction of one connection: what has come and is not read yet, and when it came."""

    def __init__(self) -> None:
        self.total = 0
        self._content = bytearray()
        self._marks: list[tuple[int, float]] = []  # how much had come, and when
        self._read = 0
        self._lock = threading.Lock()

    def add(self, block: bytes) -> None:
        with self._lock:
            self.total += len(block)
            self._content += block
            self._marks.append((self.total, time.monotonic()))

    def take(self) -> list[Push]:
        """Frames that have come in full since the last time."""
        with self._lock:
            found = list(pushes(self._content, self._arrival))
            size = sum(len(push.header) + len(push.value) for push in found)
            del self._content[:size]
            self._read += size
            self._marks = [mark for mark in self._marks if mark[0] > self._read]
            return found

    def _arrival(self, end: int) -> float:
        """When the last byte of the unread content's first `end` came."""
        return self._marks[bisect_left(self._marks, (self._read + end, 0.0))][1]


class Recorder:
    """Relays between parties on the loopback, and what they carried.

    Args:
        delay: Seconds that every block of bytes is held back, each way: a slow network.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self._delay = delay
        self._sockets: list[socket.socket] = []
        self._pushed: dict[int, list[_Stream]] = {}
        self._of_runs: dict[tuple[int, int], list[Push]] = {}
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def relay(self, receiver: int, target: tuple[str, int]) -> tuple[str, int]:
        """Where another party is to connect in place of `receiver`, which listens, or will listen, at `target`."""
        server = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(server)
        threading.Thread(target=self._accept, args=(server, receiver, target), daemon=True).start()
        return "127.0.0.1", int(server.getsockname()[1])

    def view(self, rank: int, run: int, inputs: tuple[bytes, ...]) -> PartyView:
        """One party's view of one run, whose link the parties made as their `run`-th, from 0; it is handed out once.

        Raises:
            ValueError: what was recorded is not brpc's framing.
        """
        self._sort(rank)
        chunks: dict[tuple[int, str], list[Push]] = {}
        for push in self._of_runs.pop((rank, run), []):
            key = push.key.removeprefix(f"root-{run}").partition(_COUNTER)[0]
            chunks.setdefault((push.sender, key), []).append(push)
        began = min((push.arrived for found in chunks.values() for push in found), default=0.0)
        messages = (_joined(sender, key, found, began) for (sender, key), found in sorted(chunks.items()))
        return PartyView(rank, inputs, tuple(messages))

    def close(self) -> None:
        """Listen no longer; what was recorded stays."""
        self._open = False
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _sort(self, rank: int) -> None:
        """Read what has come, and put it down to its run."""
        for stream in self._pushed.get(rank, ()):
            for push in stream.take():
                if match := _RUN.match(push.key):
                    self._of_runs.setdefault((rank, int(match[1])), []).append(push)

    def _accept(self, server: socket.socket, receiver: int, target: tuple[str, int]) -> None:
        while self._open:
            try:
                near, _ = server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(target)
            except OSError:  # the party does not listen yet: its peer tries again
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(end)
            pushed = _Stream()
            self._pushed.setdefault(receiver, []).append(pushed)
            for source, sink, stream in ((near, far, pushed), (far, near, None)):
                threading.Thread(target=self._pump, args=(source, sink, stream), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, stream: _Stream | None) -> None:
        """Hand bytes on until a side closes, each block `delay` after it came; keep them where there is a stream."""
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        if self._delay:
            threading.Thread(target=_deliver, args=(waiting, sink), daemon=True).start()
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if stream is not None:
                    stream.add(block)
                if self._delay:
                    waiting.put((time.monotonic() + self._delay, block))
                else:
                    sink.sendall(block)
        waiting.put((0.0, b""))
        if not self._delay:
            _close_side(sink)


def _deliver(waiting: "queue.SimpleQueue[tuple[float, bytes]]", sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while (item := waiting.get())[1]:
            time.sleep(max(0.0, item[0] - time.monotonic()))
            sink.sendall(item[1])
    _close_side(sink)


def _close_side(sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def pushes(stream: bytes | bytearray, arrival: Callable[[int], float]) -> Iterator[Push]:
    """Cut a stream of brpc frames into push requests; a last frame that is not whole yet is left.

    Args:
        stream: One direction of a connection, from its first byte.
        arrival: End of a frame in the stream -> when it had come.

    Raises:
        ValueError: a frame does not begin as one, or is no push request.
    """
    start = 0
    while start + 12 <= len(stream):
        if stream[start : start + 4] != _MAGIC:
            raise ValueError(f"no brpc frame at byte {start} of a recorded stream")
        body = int.from_bytes(stream[start + 4 : start + 8], "big")
        call = int.from_bytes(stream[start + 8 : start + 12], "big")
        end = start + 12 + body
        if end > len(stream):
            return
        yield _push(bytes(stream[start:end]), 12 + call, arrival(end))
        start = end


def _push(frame: bytes, begin: int, arrived: float) -> Push:
    """The request in a frame: fields 1 sender_rank, 2 key, 3 value, 5 the chunk's place (1 length, 2 offset)."""
    found = {number: (content, place) for number, content, place in _fields(frame, begin, len(frame))}
    sender, _ = found.get(1, (0, 0))
    key, _ = found.get(2, (b"", 0))
    value, place = found.get(3, (b"", len(frame)))
    chunk, _ = found.get(5, (b"", 0))
    if not (isinstance(sender, int) and isinstance(key, bytes) and isinstance(value, bytes) and key):
        raise ValueError("a recorded frame is no push request")
    inner = _fields(chunk, 0, len(chunk)) if isinstance(chunk, bytes) else ()
    offset = next((int(content) for number, content, _ in inner if number == 2), 0)
    header = frame[:place] + frame[place + len(value) :]
    return Push(sender, key.decode(), value, offset, header, arrived)


def _fields(message: bytes, place: int, end: int) -> Iterator[tuple[int, int | bytes, int]]:
    """Fields of a protocol buffer in message[place:end]: number, content (an integer, or bytes), where it begins."""
    while place < end:
        tag, place = _varint(message, place)
        if tag & 7 not in {0, 2}:
            raise ValueError(f"a recorded frame has a field of wire type {tag & 7}")
        value, place = _varint(message, place)
        if tag & 7 == 0:
            yield tag >> 3, value, place
        else:
            yield tag >> 3, message[place : place + value], place
            place += value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _joined(sender: int, key: str, chunks: list[Push], began: float) -> Message:
    chunks = sorted(chunks, key=lambda push: push.offset)
    payload, header = (b"".join(getattr(push, name) for push in chunks) for name in ("value", "header"))
    return Message(sender, key, payload, header, max(push.arrived for push in chunks) - began)
