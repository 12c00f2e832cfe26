"""The sequence of ``make run`` and ``make demo``: check, end leftovers, start, wait, print the box, watch, end."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from ..compose import isolation_problem, proxy_command
from ..installation import PORTS, ROOT, Installation, data_path
from ..keys import SERVICE_TOKENS, KeyFileError, make_private_directory, make_state_directory
from ..parent import adopt_orphans, signal_on_parent_death
from ..settings import SettingsError
from ..workspaces.runners.local import end_all as end_jobs
from . import demo
from .box import OPEN_WITHOUT_TLS, SHARED_ORIGIN, complain, say, show_box
from .checks import LOOPBACK, Lock, Refused, check_policy, choose_ports
from .processes import Process, Record, descendants, end, parts_of, wait_gone
from .ready import endpoints, wait_ready
from .stop import Stop

ADMIN = "admin"
READY_SECONDS = 120.0
#: how long the Hub may take to stop notebook servers and itself
STOP_SECONDS = 40.0
LOG_BYTES = 10 * 1024**2


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code: 0 after Ctrl-C, 1 when the Hub ended by itself, 2 when it cannot start."""
    options = _options(arguments)
    try:
        maestro = Installation.from_environment()
        if options.port is not None:
            maestro = maestro.with_ports(public=options.port)
        with _demo_state(maestro) if options.demo else _own_state(maestro) as there:
            return _Run(there, options.demo, options.config).start()
    except (Refused, SettingsError, KeyFileError) as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        complain(f"Maestro cannot start: {error.strerror or error} ({error.filename or 'no file'}).")
        return 2


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m maestro_hub_services.run", description="Maestro on this machine.")
    parser.add_argument("--demo", action="store_true", help="throw-away data, a sample workspace, two sample users")
    parser.add_argument("--port", type=int, help="port for browsers (MAESTRO_PORT, 8888); 0 takes free ones")
    parser.add_argument("--config", type=Path, help="another file than the project's jupyterhub_config.py")
    return parser.parse_args(arguments)


@contextmanager
def _own_state(maestro: Installation) -> Iterator[Installation]:
    make_state_directory(maestro.state)
    yield maestro


@contextmanager
def _demo_state(maestro: Installation) -> Iterator[Installation]:
    """Throw-away data. Servers of a root Hub run as another user, who must reach the directories above theirs."""
    state = Path(tempfile.mkdtemp(prefix="maestro-demo-"))
    try:
        yield replace(maestro, state=state)
    finally:
        shutil.rmtree(state, ignore_errors=True)


class _Run:
    """One run on one state directory."""

    def __init__(self, maestro: Installation, with_demo: bool, config: Path | None) -> None:
        self._began = time.monotonic()
        self._maestro = maestro
        self._demo = with_demo
        self._config = config
        self._run = make_private_directory(maestro.state / "run")
        self._record = Record(self._run / "processes.json")
        self._ready = self._run / "ready.json"
        self._stop = Stop(())

    def start(self) -> int:
        """Everything, until it ends."""
        lock = Lock(self._run / "lock")
        lock.take()
        check_policy(self._maestro.policy)
        notes = self._isolation()
        self._end_leftovers()
        self._maestro = maestro = choose_ports(self._maestro)
        proxy_command()  # refuses here, in one sentence, what the Hub would refuse in its log
        for name in ("cookie_secret", "proxy_token", *SERVICE_TOKENS):
            maestro.key(name)
        passwords = self._passwords()
        self._stop = Stop((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        adopt_orphans()
        hub = self._start_hub()
        try:
            if not self._wait_ready(hub) or self._stop.asked:
                return self._gone(hub)
            if self._demo:
                demo.make_sample(maestro.local_url("/"), passwords[demo.ADMIN])
            self._write_ready(hub)
            self._show(passwords, notes)
            while not self._stop.wait(1.0) and hub.poll() is None:
                self._keep_record(hub)
            if not self._stop.asked:
                return self._gone(hub)
            return 0
        finally:
            self._end(hub)

    # -- before ---------------------------------------------------------------------------------------------------

    def _isolation(self) -> list[str]:
        """Refuse a demo without bubblewrap; let one person in, on loopback, without it."""
        maestro = self._maestro
        if maestro.provider != "local":
            return []
        problem = isolation_problem()
        if problem is None and maestro.subdomain_host:
            return []
        if problem is None:
            return [SHARED_ORIGIN] if maestro.host in LOOPBACK else [SHARED_ORIGIN, OPEN_WITHOUT_TLS]
        if self._demo:
            raise Refused(problem)
        if maestro.allow_unisolated:
            return [f"{problem} MAESTRO_ALLOW_UNISOLATED lets several people in all the same."]
        if maestro.host not in LOOPBACK:
            self._maestro = replace(maestro, host="127.0.0.1")
        return [f"{problem} Until then this Hub is open to {ADMIN} alone, from this machine alone."]

    def _end_leftovers(self) -> None:
        """End the Hub, proxy and services of a killed run. Its notebook servers go on: the Hub finds them again."""
        left = [process for process in self._record.read() if process.alive]
        if left:
            say(f"Ending {len(left)} processes that an earlier run left behind ...")
            end(left, STOP_SECONDS / 2)
        self._record.clear()
        self._ready.unlink(missing_ok=True)
        (self._run / "proxy.pid").unlink(missing_ok=True)  # the number may be another's process by now

    def _passwords(self) -> dict[str, str]:
        """Passwords of this start, from the authenticator's own program: the admin's first one, or the samples'."""
        command = ["give", *demo.USERS] if self._demo else ["first", ADMIN]
        program = [sys.executable, "-m", "maestro_authenticator", "--state", str(self._maestro.state), *command]
        done = subprocess.run(
            program, env=self._environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise Refused(f"The accounts cannot be opened: {last[0]}")
        return dict(line.split(" ", 1) for line in done.stdout.splitlines())

    # -- the Hub --------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | self._maestro.as_environment() | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def _start_hub(self) -> subprocess.Popen[bytes]:
        config = self._config or data_path("jupyterhub_config.py")
        log = make_private_directory(self._maestro.state / "log") / "hub.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            hub = subprocess.Popen(
                [sys.executable, "-P", "-m", "jupyterhub", "-f", str(config.absolute())],
                env=self._environment(),
                cwd=make_private_directory(self._maestro.state / "hub"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours: the Hub is told to end, and its servers by it
                preexec_fn=lambda: signal_on_parent_death(signal.SIGTERM),
            )
        self._keep_record(hub)
        return hub

    def _wait_ready(self, hub: subprocess.Popen[bytes]) -> bool:
        def going() -> bool:
            self._keep_record(hub)
            return hub.poll() is None and not self._stop.asked

        host = urlsplit(self._maestro.subdomain_host).netloc
        silent = wait_ready(endpoints(self._maestro), READY_SECONDS, going, host)
        if silent and going():
            say(f"Still not answering: {', '.join(silent)}; see {self._log()}.")
        return hub.poll() is None

    def _write_ready(self, hub: subprocess.Popen[bytes]) -> None:
        maestro = self._maestro
        parts = {process.pid: " ".join(process.command()) for process in parts_of(_process(hub))}
        content = {
            "url": maestro.people_url("/"),
            "local_url": maestro.local_url("/"),
            "hub_api": f"http://{maestro.hub_host}:{maestro.port('hub')}/hub/api",
            "ports": {name: maestro.port(name) for name in PORTS},
            "services": {name: maestro.origin(name) for name in maestro.services},
            "pids": {"run": os.getpid(), "hub": hub.pid, "parts": parts},
            "state": str(maestro.state),
            "seconds": round(time.monotonic() - self._began, 1),
        }
        draft = self._ready.with_suffix(".new")
        draft.write_text(json.dumps(content, indent=1))
        draft.replace(self._ready)

    def _show(self, passwords: dict[str, str], notes: list[str]) -> None:
        if self._demo:
            roles = {
                demo.ADMIN: "(admin, owner of demo)",
                demo.EDITOR: "(editor of demo)",
                demo.VIEWER: "(viewer of demo)",
            }
            notes = ["All of this is thrown away at the end.", *notes]
        else:
            roles = {ADMIN: "(one-time password)"}
        show_box(self._maestro.people_url("/"), passwords, roles, notes, time.monotonic() - self._began)

    def _keep_record(self, hub: subprocess.Popen[bytes]) -> None:
        process = _process(hub)
        if process.alive:
            self._record.write(parts_of(process))

    # -- after ----------------------------------------------------------------------------------------------------

    def _log(self) -> Path:
        return self._maestro.state / "log" / "hub.log"

    def _gone(self, hub: subprocess.Popen[bytes]) -> int:
        """Say why the Hub is not there any more."""
        if self._stop.asked:
            return 0
        code = hub.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        complain(f"The Hub has ended ({how}). The last lines of {self._log()}:")
        with suppress(OSError):
            for line in self._log().read_text(errors="replace").splitlines()[-8:]:
                complain(f"  {line}")
        return 1

    def _end(self, hub: subprocess.Popen[bytes]) -> None:
        """End the Hub, then all that it or its children left. After a crash of the Hub its notebook servers stay."""
        crashed = hub.poll() is not None and not self._stop.asked
        self._ready.unlink(missing_ok=True)
        if crashed and not self._demo:
            end(self._record.read(), 5.0)
        else:
            say("Ending ...")
            self._end_hub(hub)
            end(descendants(os.getpid()), 3.0)
            end_jobs(self._maestro.state)
        self._record.clear()

    def _end_hub(self, hub: subprocess.Popen[bytes]) -> None:
        """SIGTERM, and time to stop the notebook servers; a second Ctrl-C cuts it short."""
        if hub.poll() is None:
            hub.terminate()
        limit = time.monotonic() + STOP_SECONDS
        while hub.poll() is None and time.monotonic() < limit and not self._stop.hurry:
            wait_gone([_process(hub)], 0.2)
        if hub.poll() is None:
            hub.kill()
        hub.wait()


def _process(hub: subprocess.Popen[bytes]) -> Process:
    return Process.of(hub.pid) or Process(hub.pid, -1)


if __name__ == "__main__":
    raise SystemExit(main())
