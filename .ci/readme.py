"""Runs the commands of README.md and holds what they print against what the page shows.

Every ```console block is a session: a line that starts with "$ " is a command, what follows is
what it prints, and "…" stands for anything. All blocks run in order in one shell. A command that
serves is started in the background and ended when the next one is due, or at the end. The page's
fixed ports are replaced by the ones in the environment, so that it runs beside anything else.

    python3 .ci/readme.py README.md      (from the repository's root)
"""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

# "cargo test" is the whole suite: .ci/run has just run it.
ALREADY_RUN = {"cargo test"}
SERVES = re.compile(r"(gatepost serve|--example quickstart)$")


def sessions(page):
    """The commands of the page, each with the lines that it should print."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S):
        command, expected = None, []
        for line in block.splitlines():
            if line.startswith("$ "):
                if command is not None:
                    yield command, "\n".join(expected)
                command, expected = line[2:], []
            else:
                expected.append(line)
        if command is not None:
            yield command, "\n".join(expected)


def matches(expected, printed):
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, printed.strip(), re.S) is not None


class Server:
    """What a serving command started: one process group, ended by SIGINT as by Ctrl-C."""

    def __init__(self, command, port):
        # The variables are for the shipped config.toml; the quickstart brings its own file.
        ours = (name for name in os.environ if "quickstart" not in command or not name.startswith("GATEPOST"))
        # Started from a script's background, SIGINT would be ignored: Ctrl-C has to work as at a terminal.
        self.process = subprocess.Popen(
            ["bash", "-c", "exec " + command],
            env={name: os.environ[name] for name in ours},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.command = command
        deadline = time.monotonic() + 900  # the first quickstart builds everything
        while True:
            if self.process.poll() is not None:
                sys.exit(f"ended at once: {command}")
            if time.monotonic() > deadline:
                self.stop()
                sys.exit(f"does not listen on port {port}: {command}")
            try:
                socket.create_connection(("127.0.0.1", int(port)), 0.2).close()
                return
            except OSError:
                time.sleep(0.1)

    def stop(self):
        """Ends it; True when Ctrl-C was enough and it called that a success."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.process.returncode != 0:
            print(f"FAILED $ {self.command}\n  ended with {self.process.returncode}", flush=True)
        return self.process.returncode == 0


class Shell:
    """One bash for the whole page, so that a variable set in one block is there in the next."""

    MARK = "--- end of command ---"

    def __init__(self):
        self.bash = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def run(self, command):
        self.bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' '{self.MARK}' $?\n")
        self.bash.stdin.flush()
        printed = []
        for line in self.bash.stdout:
            if line.startswith(self.MARK):
                return "".join(printed), int(line.split()[-1])
            printed.append(line)
        sys.exit(f"the shell ended in: {command}")

    def close(self):
        self.bash.stdin.close()
        self.bash.wait()


def main():
    ports = {"8080": os.environ["README_PORT"], "8081": os.environ["README_ADMIN_PORT"]}
    commands = list(sessions(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))
    if not commands:
        sys.exit("the page shows no command")
    shell, server, passed, failed = Shell(), None, 0, 0
    try:
        for command, expected in commands:
            if command in ALREADY_RUN:
                continue
            if SERVES.search(command):
                if server:
                    failed += not server.stop()
                print(f"$ {command}", flush=True)
                server = Server(command, ports["8080"])
                passed += 1
                continue
            local = command
            for fixed, free in ports.items():
                local = local.replace(f"localhost:{fixed}", f"127.0.0.1:{free}")
            printed, status = shell.run(local)
            if status == 0 and matches(expected, printed):
                passed += 1
            else:
                failed += 1
                print(f"FAILED $ {command}\n  exit {status}, printed: {printed.strip()}\n  the page shows: {expected}", flush=True)
    finally:
        if server:
            failed += not server.stop()
        shell.close()
    print(f"README: {passed} commands did what the page says, {failed} did not")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
