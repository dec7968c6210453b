"""A gRPC server with all four kinds of calls; `greeter.py ADDRESS [AUTHORITY]` is its client. Messages are bytes."""
import os
import signal
import sys
import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.send_initial_metadata((("x-first", "head"),))
    context.set_trailing_metadata((("x-last", "tail"), ("x-raw-bin", b"\x00\x01")))
    return b"hello " + request


def down(request, _context):
    for number in range(int(request)):
        yield b"%d" % number


def up(requests, _context):
    return b"+".join(requests)


def both(requests, _context):
    for request in requests:
        yield request.upper()


def refuse(_request, context):
    context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x09details"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100% ünready")


def wait(_request, context):
    """Says how much time is left, and then nothing until the call has ended."""
    left = context.time_remaining()
    context.add_callback(cancelled.set)
    yield f"{left:.3f}".encode() if left is not None else b"for ever"
    while context.is_active():
        time.sleep(0.01)


def seen(_request, _context):
    found = cancelled.wait(10)
    cancelled.clear()
    return b"yes" if found else b"no"


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Greeter", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
        "Seen": grpc.unary_unary_rpc_method_handler(seen),
    })])
    server.add_insecure_port("127.0.0.1:" + os.environ["PORT"])
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
    server.wait_for_termination()


class Named(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends the same metadata with every call."""

    def __init__(self, metadata):
        self.metadata = tuple(metadata.items())

    def send(self, proceed, details, request):
        return proceed(details._replace(metadata=self.metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = send


def calls(address, authority=None, metadata=None):
    options = [("grpc.default_authority", authority)] if authority else []
    options.append(("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(address, options) as channel:
        channel = grpc.intercept_channel(channel, Named(metadata or {}))
        one = lambda name: channel.unary_unary("/test.Greeter/" + name)
        answer, call = one("Unary").with_call(b"you", timeout=20)
        assert answer == b"hello you", answer
        assert ("x-first", "head") in call.initial_metadata(), call.initial_metadata()
        last = dict(call.trailing_metadata())
        assert (last["x-last"], last["x-raw-bin"]) == ("tail", b"\x00\x01"), last

        large = os.urandom(3_000_000)
        assert one("Unary")(large, timeout=30) == b"hello " + large, "3 MB both ways"
        many = list(channel.unary_stream("/test.Greeter/Down")(b"1000", timeout=30))
        assert many == [b"%d" % number for number in range(1000)], len(many)
        joined = channel.stream_unary("/test.Greeter/Up")(iter([b"a", b"", b"c"]), timeout=20)
        assert joined == b"a++c", joined

        asked = threading.Semaphore(0)
        def questions():
            for question in (b"one", b"two"):
                yield question
                assert asked.acquire(timeout=20), "an answer before the next question"
        answers = channel.stream_stream("/test.Greeter/Both")(questions(), timeout=30)
        heard = []
        for answer in answers:
            heard.append(answer)
            asked.release()
        assert heard == [b"ONE", b"TWO"], heard

        try:
            one("Refuse")(b"", timeout=20)
            raise AssertionError("not refused")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "not now: 100% ünready", error.details()
            details = dict(error.trailing_metadata())
            assert details["grpc-status-details-bin"] == b"\x08\x09details", details

        try:
            one("Nothing")(b"", timeout=20)
            raise AssertionError("there is no such method")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

        wait = channel.unary_stream("/test.Greeter/Wait")
        call = wait(b"", timeout=1)
        left = float(next(call))
        assert 0 < left < 1.1, f"the deadline arrives: {left}"
        try:
            next(call)
            raise AssertionError("the deadline passed")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert one("Seen")(b"", timeout=20) == b"yes", "the server sees that the deadline passed"

        call = wait(b"")
        next(call)
        call.cancel()
        assert one("Seen")(b"", timeout=20) == b"yes", "the server sees the cancellation"
    return "grpc ok"


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        print(calls(*sys.argv[1:]))
