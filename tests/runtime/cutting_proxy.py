"""A TCP proxy on loopback that does to a connection what networks do: cut it, let it go silent, damage what passes."""

import contextlib
import random
import socket
import threading

_CHUNK = 4096


class CuttingProxy:
    """Passes connections to a port of this machine; `port` is its own."""

    def __init__(self, target_port):
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._damages, self._left = False, None  # chunks from the server until the cut, None: for ever
        self._random = random.Random(1)
        self._sockets = []
        self.damaged = self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after=0):
        """End the connection after so many chunks from the server, in the middle of the next one."""
        self._left = after

    def stall(self):
        """Let nothing pass, on connections that stay open and on new ones, until `resume`."""
        self._flows.clear()

    def damage(self):
        """Change a byte of each chunk that comes from the server, until `resume`."""
        self._damages = True

    def resume(self):
        """Pass everything again."""
        self._damages = False
        self._flows.set()

    def close(self):
        """End all that is open."""
        self._flows.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            one.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for source, sink, alter in ((client, server, bytes), (server, client, self._altered)):
                threading.Thread(target=self._pump, args=(source, sink, alter), daemon=True).start()

    def _pump(self, source, sink, alter):
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flows.wait()
                altered = alter(data)
                sink.sendall(altered)
                if len(altered) < len(data):
                    break
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _altered(self, data):
        """What becomes of a chunk from the server: less of it where the cut is due, one byte of it changed while it damages."""
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._left = None
                self.cuts += 1
                return data[: len(data) // 2]
        if self._damages and data[:5] != b"RTSP/":  # what is said at the beginning of a connection passes
            self.damaged += 1
            changed = bytearray(data)
            changed[self._random.randrange(len(data) // 2, len(data))] ^= 0xFF  # of video, rather than the length of its packet
            return bytes(changed)
        return data
