"""An HTTP/1.1 endpoint on bare sockets, so that nothing is hidden: the path says what it does."""
import asyncio
import hashlib
import os
import signal

IDLE = float(os.environ.get("IDLE", "30"))
PIECE = bytes(range(256)) * 256
gone = 0


class Request:
    def __init__(self, text):
        self.text = text
        lines = text.split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        pairs = (line.split(":", 1) for line in lines[1:] if line)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        self.trailers = []


async def pieces(reader, request):
    """The body, as it comes."""
    if "chunked" in request.headers.get("transfer-encoding", ""):
        while True:
            size = int((await reader.readline()).split(b";")[0], 16)
            if size == 0:
                break
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while (line := await reader.readline()).strip():
            request.trailers.append(line.decode().strip())
        return
    left = int(request.headers.get("content-length", 0))
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise ConnectionError("the body was cut")
        left -= len(piece)
        yield piece


def head(status, *lines):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def whole(body, *lines, status="200 OK"):
    body = body.encode()
    return head(status, f"Content-Length: {len(body)}", *lines) + body


def chunk(piece):
    return b"%x\r\n" % len(piece) + piece + b"\r\n"


async def answer(request, reader, writer):
    """Answers one request; whether the connection stays."""
    global gone
    path = request.target.split("?")[0]
    if request.headers.get("expect") == "100-continue":
        if path == "/refuse":
            writer.write(whole("too much\n", "Connection: close", status="413 Content Too Large"))
            return False
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if path == "/echo":
        writer.write(head("200 OK", "Transfer-Encoding: chunked"))
        async for piece in pieces(reader, request):
            writer.write(chunk(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True
    if path == "/never":
        await asyncio.sleep(3600)
    if path == "/early":
        writer.write(whole("no thanks\n", "Connection: close", status="403 Forbidden"))
        return False
    count, digest = 0, hashlib.sha256()
    async for piece in pieces(reader, request):
        count += len(piece)
        digest.update(piece)
        if path == "/sip":
            await asyncio.sleep(0.01)
    if path.startswith("/big/"):
        left = int(path[5:])
        writer.write(head("200 OK", f"Content-Length: {left}"))
        while left:
            piece = PIECE[:left]
            left -= len(piece)
            writer.write(piece)
            await writer.drain()
    elif path in ("/count", "/sip"):
        writer.write(whole(f"{count} {digest.hexdigest()}\n"))
    elif path == "/headers":
        writer.write(whole(request.text))
    elif path == "/204":
        writer.write(head("204 No Content", "X-Kind: nothing"))
    elif path == "/304":
        writer.write(head("304 Not Modified", 'ETag: "a"', "Content-Length: 5"))
    elif path == "/trailers":
        writer.write(head("200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum"))
        writer.write(chunk(";".join(request.trailers).encode() or b"none") + b"0\r\nX-Sum: 42\r\n\r\n")
    elif path == "/close":
        writer.write(head("200 OK", "Connection: close") + b"until the end")
        return False
    elif path in ("/cut", "/cut-short"):
        length = 100_000 if path == "/cut" else 100
        writer.write(head("200 OK", f"Content-Length: {length}") + b"only this")
        return False
    elif path == "/drip":
        for byte in whole("drop by drop\n"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.002)
    elif path == "/events":
        writer.write(head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        writer.write(chunk(b"data: first\n\n"))
        try:
            await reader.read(1)
        finally:
            gone += 1
        return False
    elif path == "/gone":
        writer.write(whole(f"{gone}\n"))
    elif path == "/pid":
        writer.write(whole(f"{os.getpid()}\n"))
    elif path == "/dapr/subscribe":
        writer.write(whole("nothing\n", status="404 Not Found"))
    elif path == "/crash":
        os._exit(3)
    elif request.method == "HEAD":
        writer.write(head("200 OK", "Content-Length: 6", "X-Kind: plain"))
    else:
        writer.write(whole("plain\n", "X-Kind: plain"))
    return True


async def serve(reader, writer):
    try:
        while True:
            text = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE)
            request = Request(text.decode("latin-1"))
            stays = await answer(request, reader, writer)
            await writer.drain()
            if not stays or request.headers.get("connection", "").lower() == "close":
                break
    except (asyncio.TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(os.environ["PORT"]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    print("listens", os.environ["PORT"], flush=True)
    await server.serve_forever()


asyncio.run(main())
