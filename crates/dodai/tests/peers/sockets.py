"""A WebSocket server that echoes; `sockets.py URL` is its client."""
import asyncio
import os
import signal
import sys

import websockets


async def echo(socket):
    async for message in socket:
        if message == "leave":
            await socket.close(4001, "as you wish")
            return
        await socket.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", int(os.environ["PORT"]), subprotocols=["echo"], max_size=None):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
        await asyncio.Future()


async def call(url):
    async with websockets.connect(url, subprotocols=["echo"], max_size=None, compression=None) as socket:
        assert socket.subprotocol == "echo", socket.subprotocol
        await asyncio.wait_for(await socket.ping(b"are you there"), 10)
        for message in ["hello", "", "ü" * 1000, b"\x00\xff" * 500_000]:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send("leave")
        try:
            await socket.recv()
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed
        else:
            raise AssertionError("the server did not close")
    async with websockets.connect(url, max_size=None) as socket:
        await socket.send("compressed " * 1000)
        assert await socket.recv() == "compressed " * 1000
    print("websocket ok")


asyncio.run(serve() if len(sys.argv) == 1 else call(sys.argv[1]))
