"""The recorder on its own: brpc's frames, relays, and what becomes part of a view."""

import socket
import threading
import time

import pytest

from defenses.crypto.engines.recorder import Message, Recorder, pushes


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _frame(sender: int, key: str, value: bytes, chunk: tuple[int, int] | None = None) -> bytes:
    """A push request as brpc sends it: a chunk is (whole length, offset)."""
    call = _field(1, b"org.interconnection.link.ReceiverService") + b"\x20" + _varint(2**40 + 5)
    request = (b"\x08" + _varint(sender) if sender else b"") + _field(2, key.encode()) + _field(3, value)
    if chunk is not None:
        request += b"\x20\x01" + _field(5, b"\x08" + _varint(chunk[0]) + b"\x10" + _varint(chunk[1]))
    sizes = (len(call) + len(request)).to_bytes(4, "big") + len(call).to_bytes(4, "big")
    return b"PRPC" + sizes + call + request


def test_frames_are_cut_into_payload_and_header() -> None:
    """Every byte of a frame is in the payload or in the header, and a frame that is not whole yet waits."""
    frames = [_frame(1, "root-0:1:ALLGATHER\x01\x0217", b"x" * 300), _frame(0, "ACK\x01\x02", b"17")]
    stream = b"".join(frames) + _frame(2, "late", b"")[:-1]
    first, second = pushes(stream, float)
    assert (first.sender, first.value, first.arrived) == (1, b"x" * 300, len(frames[0]))
    assert (second.sender, second.key, second.value) == (0, "ACK\x01\x02", b"17")
    assert [len(one.header) + len(one.value) for one in (first, second)] == list(map(len, frames))
    assert frames[0].replace(b"x" * 300, b"") == first.header


def test_what_is_no_frame_is_refused() -> None:
    """A stream in another protocol is an error, not an empty view."""
    with pytest.raises(ValueError, match="no brpc frame at byte 0"):
        list(pushes(b"GET / HTTP/1.1\r\n\r\n", float))


def _sent(recorder: Recorder, frames: list[bytes]) -> bytes:
    """Send frames through a relay to a listener that answers "ok", and what the listener got."""
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = recorder.relay(1, ("127.0.0.1", server.getsockname()[1]))

        def listen() -> None:
            with server.accept()[0] as near:
                while block := near.recv(1000):
                    received.extend(block)
                near.sendall(b"ok")

        listener = threading.Thread(target=listen)
        listener.start()
        with socket.create_connection(place) as out:
            for frame in frames:
                out.sendall(frame)
            out.shutdown(socket.SHUT_WR)
            assert out.recv(10) == b"ok"
        listener.join()
    return bytes(received)


def test_a_relay_changes_nothing_and_keeps_everything() -> None:
    """The receiver gets every byte; the view has the run's messages, sorted, and nothing of the transport's."""
    frames = [
        _frame(0, "connect_0\x01\x020", b""),
        _frame(0, "root-1:2:ALLGATHER\x01\x023", b"second"),
        _frame(0, "root-1:1:ALLGATHER\x01\x022", b"first"),
        _frame(0, "root-10:1:ALLGATHER\x01\x024", b"of another run"),
    ]
    with Recorder() as recorder:
        assert _sent(recorder, frames) == b"".join(frames)
        view = recorder.view(1, 1, (b"share",))
        assert (view.rank, view.inputs) == (1, (b"share",))
        assert [(one.key, one.payload) for one in view.messages] == [
            (":1:ALLGATHER", b"first"),
            (":2:ALLGATHER", b"second"),
        ]
        assert {one.kind for one in view.messages} == {"from 0: :#:ALLGATHER"}
        assert min(one.seconds for one in view.messages) == 0.0


def test_chunks_are_put_together() -> None:
    """A message above the transport's limit comes in chunks, in any order, and is one message of the view."""
    frames = [
        _frame(0, "root-0:1:GATHER\x01\x021", b"def", (6, 3)),
        _frame(0, "root-0:1:GATHER\x01\x021", b"abc", (6, 0)),
    ]
    with Recorder() as recorder:
        _sent(recorder, frames)
        (message,) = recorder.view(1, 0, ()).messages
    assert isinstance(message, Message)
    assert message.payload == b"abcdef"
    assert len(message.header) == sum(map(len, frames)) - 6


def test_a_relay_can_be_slow() -> None:
    """With a delay every block arrives that much later: a lower bound on time, which no load can shorten."""
    with Recorder(delay=0.2) as recorder:
        began = time.monotonic()
        _sent(recorder, [_frame(0, "root-0:1:GATHER\x01\x021", b"")])
        assert time.monotonic() - began >= 0.4  # there and back
