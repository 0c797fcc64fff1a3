"""Accepts all connections and reads all bytes. Prints where it listens; ends with its standard input."""

import selectors
import socket
import sys


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4_096)
    listener.setblocking(False)
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ)
    buffer = bytearray(1 << 18)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection = listener.accept()[0]
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)
            elif isinstance(key.fileobj, socket.socket):
                try:
                    ended = not key.fileobj.recv_into(buffer)
                except BlockingIOError:
                    ended = False
                except OSError:
                    ended = True
                if ended:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            else:
                return


if __name__ == "__main__":
    main()
