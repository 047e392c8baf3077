#!/usr/bin/env python3
"""Runs the gateway from these units' configuration as systemd would, as far as that goes without systemd."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ.get("GATEPOST_BIN", str(HERE.parent.parent / "target/release/gatepost"))
PATIENCE = 60

# What systemd does between fork and exec: the socket is file descriptor 3, and the pid is ours.
PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def free_port():
    """Below the range that the system hands out: an outgoing connection must not take it in between."""
    while True:
        port = random.randrange(10240, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def status(port, path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE).status
    except urllib.error.HTTPError as error:
        return error.code


class Units(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory(prefix="gatepost-systemd-")
        self.addCleanup(home.cleanup)
        self.home = pathlib.Path(home.name)
        self.admin = free_port()
        text = (HERE / "config.toml").read_text()
        for shipped, here in [
            ("/var/lib/gatepost", str(self.home / "data")),
            ("127.0.0.1:8081", f"127.0.0.1:{self.admin}"),
            # An address of nobody's: only the passed socket can be what answers.
            ("127.0.0.1:8080", "192.0.2.1:1"),
        ]:
            self.assertIn(shipped, text)
            text = text.replace(shipped, here)
        self.config = self.home / "config.toml"
        self.config.write_text(text)
        self.config.chmod(0o600)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notified.close)
        self.notified.bind(str(self.home / "notify"))
        self.notified.settimeout(PATIENCE)
        unit = (HERE / "gatepost.service").read_text()
        watchdog = int(unit.split("WatchdogSec=")[1].split("s")[0]) * 1_000_000
        notify = str(self.home / "notify")
        self.environment = {**os.environ, "NOTIFY_SOCKET": notify, "WATCHDOG_USEC": str(watchdog)}

    def start(self, arguments, **more):
        process = subprocess.Popen(
            arguments, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, wanted):
        while True:
            lines = self.notified.recv(4096).decode().splitlines()
            if wanted in lines:
                return

    def serve(self):
        return [BINARY, "--config", str(self.config), "serve"]

    def test_it_answers_on_a_passed_socket_and_says_when(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", PASS_SOCKET, str(listener.fileno()), *self.serve()]
        process = self.start(command, pass_fds=[listener.fileno()])
        self.wait_for("READY=1")
        self.assertEqual(status(port, "/"), 401)
        self.assertEqual(status(self.admin, "/readyz"), 200)
        self.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        self.wait_for("RELOADING=1")
        self.wait_for("READY=1")
        process.send_signal(signal.SIGTERM)
        self.wait_for("STOPPING=1")
        self.assertEqual(process.wait(PATIENCE), 0)
        # The socket is the manager's: who connects now waits for the next one.
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            self.start(command, pass_fds=[listener.fileno()])
            self.assertTrue(waiting.makefile("rb").readline().startswith(b"HTTP/1.1 401 "))

    @unittest.skipUnless(shutil.which("systemd-socket-activate"), "systemd-socket-activate is not installed")
    def test_systemds_own_activation_passes_it(self):
        port = free_port()
        # It starts the program when the first connection comes.
        activate = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--setenv=NOTIFY_SOCKET"]
        process = self.start([*activate, *self.serve()])
        self.assertTrue(process.stderr.readline().startswith("Listening on "))
        self.assertEqual(status(port, "/"), 401)
        self.wait_for("READY=1")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_the_units_are_well_formed(self):
        for name in ["gatepost.service", "gatepost.socket"]:
            text = (HERE / name).read_text().replace("/usr/local/bin/gatepost", BINARY)
            (self.home / name).write_text(text)
        units = [str(self.home / name) for name in ["gatepost.service", "gatepost.socket"]]
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
        )
        ours = [line for line in verified.stderr.splitlines() if "gatepost" in line]
        self.assertEqual(ours, [], verified.stderr)

    def test_stopping_has_time_to_drain(self):
        unit = (HERE / "gatepost.service").read_text()
        timeout = int(unit.split("TimeoutStopSec=")[1].split("s")[0])
        self.assertGreater(timeout, 20, "[server] drain_timeout is 20 s by default")


if __name__ == "__main__":
    unittest.main()
