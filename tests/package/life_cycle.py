#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The life of the Debian packages, on a machine that is thrown away (tests/lab).

    life_cycle.py TREE OLD NEW

TREE is the project's; OLD and NEW are directories with two versions of the packages.
They are installed, used, upgraded, removed and purged in a root file system of their own:
this machine's, under an overlay whose upper layer tells what is left in the end.
"""
import contextlib
import fnmatch
import os
import pathlib
import shlex
import signal
import socket
import stat
import subprocess
import sys

TREE, OLD, NEW = map(pathlib.Path, sys.argv[1:])
PLACE = pathlib.Path("/run/life-cycle")
ROOT, UPPER = PLACE / "root", PLACE / "upper"
NAMES = ("libvchan-vsock1", "libvchan-vsock-dev", "vchan-vsock-tools")
POLICY = ROOT / "etc/vchan-vsock/relay.policy"
UNIT = ROOT / "lib/systemd/system/vchan-vsock-relay.service"
USER = "_vchan-relay"
NET_BIND_SERVICE = 1 << 10

AUTO_UPDATE = "var/lib/man-db/auto-update"
# What no boot survives, the package system's own, and former lists of users.
KEPT = (AUTO_UPDATE, "run/*", "var/lib/dpkg/*", "var/log/*", "var/cache/*", "etc/.pwd.lock",
        "etc/passwd*", "etc/group*", "etc/shadow*", "etc/gshadow*")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "HOME": "/root", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def inside(*argv, **variables):
    """The words, and how they are run, of a program in the packages' file system."""
    return (["chroot", str(ROOT), *map(str, argv)],
            {"env": {**ENVIRONMENT, **variables}, "stdin": subprocess.DEVNULL})


def forget_files():
    """The lab keeps one open for each that this machine remembers, and may keep 20,000."""
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")


def run(*argv, **variables):
    """Run it to its end: what it has said."""
    forget_files()
    words, how = inside(*argv, **variables)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=400, **how)
    print(done.stdout, end="", flush=True)
    assert done.returncode == 0, f"{argv[0]}: exit status {done.returncode}"
    return done.stdout


def step(what):
    print(f"\n--- {what}", flush=True)


# --- the file system ---------------------------------------------------------

def make_root():
    for name in ("root", "upper", "work"):
        (PLACE / name).mkdir(parents=True)
    subprocess.run(["mount", "-t", "overlay", "-o",
                    f"lowerdir=/,upperdir={UPPER},workdir={PLACE}/work", "overlay", ROOT],
                   check=True)
    for name in ("dev", "proc", "sys"):
        subprocess.run(["mount", "--rbind", f"/{name}", ROOT / name], check=True)
    # The index of all manual pages would be made anew each time.
    (ROOT / AUTO_UPDATE).unlink(missing_ok=True)


def is_whiteout(path):
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def changes():
    """What is there now and was not, or the other way round; it is kept for us."""
    for top, directories, files in os.walk(UPPER):
        for name in directories + files:
            path = pathlib.Path(top, name)
            inner = path.relative_to(UPPER)
            was_there = os.path.lexists(pathlib.Path("/", inner))
            if (is_whiteout(path) or not was_there) and not any(
                    fnmatch.fnmatch(str(inner), pattern) for pattern in KEPT):
                yield str(inner)


def users():
    return {line.split(":")[0] for line in (ROOT / "etc/passwd").read_text().splitlines()}


def packages():
    """{name: (how it is, its version)} of ours."""
    words, how = inside("dpkg-query", "-W", "-f",
                        "${Package} ${db:Status-Status} ${Version}\\n", *NAMES)
    said = subprocess.run(words, capture_output=True, text=True, **how).stdout
    return {line.split()[0]: tuple(line.split()[1:]) for line in said.splitlines()}


def versions(directory):
    return {path.name.split("_")[0]: ("installed", path.name.split("_")[1])
            for path in directory.glob("*.deb")}


def install(directory, *options):
    run("dpkg", *options, "--install", *sorted(directory.glob("*.deb")))
    assert packages() == versions(directory)


# --- what they are for -------------------------------------------------------

def use(name, scratch):
    """One of the packages' own tests, as autopkgtest would run it."""
    run("env", "-C", TREE, f"debian/tests/{name}", AUTOPKGTEST_TMP=scratch)


def in_unit(key):
    lines = UNIT.read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{key}="))


def privileges(pid):
    """(its user's number, its capabilities)"""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return int(fields["Uid"].split()[1]), int(fields["CapEff"], 16)


@contextlib.contextmanager
def service():
    """The relay as its unit starts it: (process, the service manager's socket)."""
    assert in_unit("User") == USER
    capability = "-all,+net_bind_service"
    assert in_unit("AmbientCapabilities") == "CAP_NET_BIND_SERVICE"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(120)
        manager.bind("\0life-cycle")
        words, how = inside(
            "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs",
            f"--inh-caps={capability}", f"--ambient-caps={capability}",
            f"--bounding-set={capability}", *shlex.split(in_unit("ExecStart")),
            NOTIFY_SOCKET="@life-cycle")
        process = subprocess.Popen(words, **how)
        try:
            yield process, manager
        finally:
            process.kill()
            process.wait()


def unit_is_right():
    """Its manager has nothing to say, where there is one."""
    if (ROOT / "usr/bin/systemd-analyze").exists():
        path = UNIT.relative_to(ROOT)
        assert path.name not in run("systemd-analyze", "verify", f"/{path}")


def relay():
    unit_is_right()
    with service() as (process, manager):
        assert manager.recv(99) == b"READY=1"
        user, capabilities = privileges(process.pid)
        assert user != 0 and capabilities == NET_BIND_SERVICE
        process.send_signal(signal.SIGHUP)
        assert manager.recv(99).startswith(b"RELOADING=1")
        assert manager.recv(99) == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def put_anothers(path):
    """Where a package of another library would put its vchan.pc."""
    path.unlink(missing_ok=True)
    path.write_text("another's\n")


def is_anothers(path):
    return not path.is_symlink() and path.read_text() == "another's\n"


def main():
    make_root()
    users_before = users()
    triplet = run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()
    pc = ROOT / "usr/lib" / triplet / "pkgconfig/vchan.pc"
    scratch = "/tmp/autopkgtest"

    step("install, where another library has a vchan.pc")
    put_anothers(pc)
    install(OLD)
    assert is_anothers(pc)
    assert users() - users_before <= {USER} <= users()
    pc.unlink()

    step("use")
    run("mkdir", scratch)
    use("command", scratch)
    use("loopback", scratch)

    step("upgrade")
    with POLICY.open("a") as policy:
        policy.write("allow 42 -> 43 512\n")
    kept = POLICY.read_text()
    install(NEW, "--force-confdef", "--force-confold")
    assert POLICY.read_text() == kept
    assert run("readlink", "-f", f"/{pc.relative_to(ROOT)}").endswith("/vchan-vsock.pc\n")
    # A program that was compiled with the old one.
    run(f"{scratch}/loopback", VCHAN_VSOCK_LOOPBACK="1")
    use("compile", scratch)
    run("rm", "-r", scratch)
    relay()

    step("remove, after a package of another library has come")
    put_anothers(pc)
    run("dpkg", "--remove", *NAMES)
    assert is_anothers(pc)
    pc.unlink()
    assert packages()["vchan-vsock-tools"][0] == "config-files"
    assert POLICY.read_text() == kept
    # Whether the service was enabled is remembered until the purge, too.
    left = {name for name in changes() if not name.startswith("var/lib/systemd/")}
    assert left == {"etc/vchan-vsock", "etc/vchan-vsock/relay.policy",
                    "etc/vchan-vsock/relay.policy.dpkg-dist"}, left

    step("purge")
    run("dpkg", "--purge", "vchan-vsock-tools")
    assert not packages()
    # A system user stays, so that nobody else gets its number and its files.
    assert users() == users_before | {USER}
    left = sorted(changes())
    assert left == [], left
    print("all is well", flush=True)


if __name__ == "__main__":
    main()
