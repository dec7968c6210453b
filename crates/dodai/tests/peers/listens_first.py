"""A client that says nothing before it was greeted, and gives up soon. Arguments: host and port."""
import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as connection:
    lines = connection.makefile("rwb")
    print(lines.readline().decode().strip())
    lines.write(b"hello\r\n")
    lines.flush()
    print(lines.readline().decode().strip())
