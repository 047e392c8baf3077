"""Processes, ports and CPUs: what every measurement stands on.

Linux only. Everything that is started here is ended by its own process id, and lives in one
temporary directory.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """A tool is not installed: its rows are left out, and the table says so."""


def find(*names):
    """The first of these programs that is there."""
    for name in names:
        for path in (os.environ.get("PATH", ""), "/usr/sbin:/usr/local/sbin"):
            if found := shutil.which(name, path=path):
                return found
    raise Missing(names[0])


def free_ports(count):
    """Below the range that the system hands out: the load's own connections must not take one."""
    found = set()
    while len(found) < count:
        port = random.randrange(10240, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def cpus():
    """One CPU for the proxy, one for the load and the app."""
    own = sorted(os.sched_getaffinity(0))
    if len(own) < 2:
        raise SystemExit("two CPUs are needed: one for the proxy, one for the load")
    return int(os.environ.get("PROXY_CPU", own[0])), int(os.environ.get("LOAD_CPU", own[1]))


class Process:
    """A server of ours, pinned to one CPU."""

    def __init__(self, name, cpu, command, directory, port=None, environment=None):
        self.name, self.directory = name, Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.output = self.directory / "out"
        with open(self.output, "ab") as out:
            self.child = subprocess.Popen(
                ["taskset", "-c", str(cpu), *map(str, command)],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=self.directory,
                env={**os.environ, **(environment or {})}, start_new_session=True,
            )
        if port is not None:
            self.wait_for(port)

    @property
    def pid(self):
        return self.child.pid

    def wait_for(self, port):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if self.child.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        tail = self.output.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{self.name} does not listen on port {port}:\n{tail}")

    def family(self):
        """The process and its children, which do the work where there is a master."""
        pids = [self.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids += [int(child) for child in (task / "children").read_text().split()]
        return pids

    def cpu_seconds(self):
        """User and system time, threads that have ended included."""
        ticks = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                # The second field may hold blanks: count from behind its closing parenthesis.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICK

    def resident_bytes(self):
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


class Bench:
    """The temporary directory and what runs in it."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="gatepost-bench."))
        self.processes = []
        self.proxy_cpu, self.load_cpu = cpus()

    def start(self, name, command, directory, port=None, load=False, environment=None):
        cpu = self.load_cpu if load else self.proxy_cpu
        process = Process(name, cpu, command, self.directory / directory, port, environment)
        self.processes.append(process)
        return process

    def stop(self, process):
        process.stop()
        self.processes.remove(process)

    def close(self):
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def load(self, *command, **options):
        """Runs a program on the load's CPU and gives back what it prints."""
        run = subprocess.run(
            ["taskset", "-c", str(self.load_cpu), *map(str, command)],
            capture_output=True, text=True, **options,
        )
        if run.returncode != 0:
            raise SystemExit(f"{command[0]} failed:\n{run.stdout[-1500:]}\n{run.stderr[-1500:]}")
        return run.stdout
