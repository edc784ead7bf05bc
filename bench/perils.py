#!/usr/bin/env python3
"""What may go wrong around Polder, done to it through the system and the command line: lost, full, read-only and half
readable volumes, a service that is away, revoked servers, clocks that are off, callers without the right.

    bench/perils.py [--binary target/debug/polder] [--only NAME …] [--keep]

Each case prints one line, `perils CASE ok` or `perils CASE FAILED why`. Exit 0 only if all pass; 3 if the machine cannot
run them (no root, no loop devices): then nothing was shown.

In every case: nothing is lost, nothing leaves the server that nobody did, `polder status` and `polder errors` say what
is wrong in words, and work goes on by itself when the cause is gone.
"""

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import Cluster, wait_for, write_new

MIB = 1 << 20
# Waits are bounds, not pauses: the states come in fractions of a second, back-off included within some seconds.
SOON, LONG = 30, 90

CLOCK_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* Wall time shifted by the seconds that the file $PERILS_CLOCK holds, read at every call. */
static long shift(void) {
    char text[32];
    const char *path = getenv("PERILS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    long length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, out);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) out->tv_sec += shift();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def system(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout.strip()


class Volume:
    """A file system in a file. The loop device stays through unmounts: whoever still holds the old mount shares it."""

    def __init__(self, folder, name, kind="ext4", mib=64, make=(), options=None):
        self.path = Path(folder) / name
        self.path.mkdir()
        self.image = Path(folder) / f"{name}.img"
        with open(self.image, "wb") as image:
            image.truncate(mib * MIB)
        quiet = ["-m", "0"] if kind == "ext4" else []
        system(f"mkfs.{kind}", "-q", *quiet, *make, self.image)
        self.device = system("losetup", "--find", "--show", self.image)
        self.options = options
        self.mount()

    def mount(self):
        system("mount", *(["-o", self.options] if self.options else []), self.device, self.path)

    def unmount(self):
        system("umount", "--lazy", self.path)

    def fill(self):
        """Takes all room; returns what took it."""
        ballast = self.path.parent / f"{self.path.name}-ballast"
        ballast = self.path / ".polder" / "ballast"
        cases.fill(ballast)
        return ballast

    def remove(self):
        while os.path.ismount(self.path):
            subprocess.run(["umount", "--lazy", self.path], capture_output=True)
        subprocess.run(["losetup", "--detach", self.device], capture_output=True)


class World:
    """One service; each case has its own share, servers and volumes."""

    def __init__(self, cluster):
        self.cluster, self.volumes = cluster, []

    def volume(self, name, **how):
        volume = Volume(self.cluster.folder, name, **how)
        self.volumes.append(volume)
        return volume

    def share(self, name, *extra):
        self.cluster.run("share", "create", name, *extra)
        self.cluster.run("group", "create", name, "--share", name)
        return Group(self, name)

    def remove_volumes(self):
        for volume in self.volumes:
            volume.remove()
        self.volumes.clear()

    def rest(self, method, path, body=None):
        """What has no command: making tokens of a role."""
        trust = ssl.create_default_context(cafile=self.cluster.environment["POLDER_CA_FILE"])
        token = Path(self.cluster.environment["POLDER_TOKEN_FILE"]).read_text().strip()
        request = urllib.request.Request(
            self.cluster.url + path, method=method, data=json.dumps(body).encode() if body else None,
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
            return json.load(answer)

    def audit(self):
        return self.cluster.json("audit")


class Group:
    """A share with its servers."""

    def __init__(self, world, name):
        self.world, self.cluster, self.name = world, world.cluster, name

    def site(self, name, path=None, prefix=()):
        """A server with an agent and an endpoint at `path`; the agent runs under the command `prefix`."""
        self.cluster.register(name)
        self.start(name, prefix)
        path = Path(path or self.cluster.folder / name)
        self.cluster.endpoint(name, path, self.name)
        return path

    def start(self, name, prefix=()):
        if not prefix:
            return self.cluster.start_agent(name)
        log = open(self.cluster.folder / "logs" / f"{name}.log", "ab")
        command = [*prefix, self.cluster.binary, "agent", "run", "--state", self.cluster.folder / f"state-{name}"]
        self.cluster.processes[name] = subprocess.Popen(
            [str(part) for part in command], env=self.cluster.environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )

    def status(self):
        return self.cluster.json("status", "--group", self.name)["groups"][0]

    def endpoint(self, server):
        return next(one for one in self.status()["endpoints"] if one["server"] == server)

    def errors(self, server):
        found = self.cluster.json("errors")
        items = found["items"] if isinstance(found, dict) else found
        return [item for item in items if item["server"] == server]

    def until_in_sync(self, seconds=LONG):
        def all_in_sync():
            status = self.status()
            return status["in_sync"] and len(status["endpoints"]) > 0
        try:
            wait_for(f"{self.name} in sync", all_in_sync, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {json.dumps(self.status())} {json.dumps(self.errors_all())}") from None

    def errors_all(self):
        return [item for one in self.status()["endpoints"] for item in self.errors(one["server"])]

    def until_says(self, server, *words, state="stopped", seconds=SOON):
        """Waits until the status of the endpoint has the state, and its reason one of the words."""
        def says():
            now = self.endpoint(server)
            reason = (now.get("reason") or "").lower()
            return now["state"] == state and any(word in reason for word in words) and now
        try:
            return wait_for(f"{server}: {state}, {' or '.join(words)}", says, seconds)
        except TimeoutError as error:
            now = self.endpoint(server)
            raise TimeoutError(f"{error}: it is {now['state']}, \"{now.get('reason')}\"") from None

    def until_error(self, server, path, *codes, seconds=SOON):
        """Waits until the list of errors has the item with one of the codes, and a reason in words."""
        def listed():
            for item in self.errors(server):
                if item["path"] == path and item["code"] in codes and item["reason"]:
                    return item
        try:
            return wait_for(f"{server}: {path} {codes}", listed, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: listed are {self.errors(server)}; {self.endpoint(server)}") from None

    def head(self):
        return self.status()["head"]


def text(name, size=2000):
    return (f"{name} ".encode() * (size // (len(name) + 1) + 1))[:size]


def write(folder, name, data):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, data)


def seed(folder, count=30):
    for number in range(count):
        write(folder, f"dir-{number % 3}/file-{number}", text(f"file {number}"))


def files(folder):
    """All files with their bytes. What goes away under the walk (a delete that arrives) begins it anew."""
    for _ in range(100):
        try:
            return files_once(folder)
        except FileNotFoundError:
            pass
    raise AssertionError(f"files come and go without end in {folder}")


def files_once(folder):
    found = {}
    for base, names, here in os.walk(folder):
        names[:] = [name for name in names if name not in (".polder", "lost+found")]
        for name in here:
            path = Path(base) / name
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def until_equal(one, other, seconds=LONG):
    try:
        wait_for("equal folders", lambda: files(one) == files(other), seconds)
    except TimeoutError:
        left, right = files(one), files(other)
        differ = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
        raise TimeoutError(f"{one} and {other} differ in {differ[:10]}") from None


def seed_both(group, a, b):
    """Seeds one of two sites and waits until both are in sync."""
    seed(a)
    wait_for("the seed at b", lambda: len(files(b)) == 30, LONG)
    group.until_in_sync()


class Pair:
    """Site a on a volume of its own, site b in a folder; both in sync on a seed."""

    def __init__(self, world, case, on="a", prefix=(), **how):
        self.group = world.share(case)
        self.volume = world.volume(f"{case}-{on}", **how)
        self.volumes = {on: self.volume.path}
        self.server_a, self.server_b = f"{case}-a", f"{case}-b"
        if on == "a":
            seed(self.volume.path)
        self.a = self.group.site(self.server_a, self.volumes.get("a"), prefix if on == "a" else ())
        if on == "b":
            seed(self.a)
        self.b = self.group.site(self.server_b, self.volumes.get("b"), prefix if on == "b" else ())
        wait_for("the seed at b", lambda: len(files(self.b)) == 30, LONG)
        self.group.until_in_sync()
        self.before, self.head = files(self.b), self.group.head()

    def nothing_left(self):
        check(self.group.head() == self.head, f"the share changed: {self.group.cluster.run('share', 'ls', '-r', self.group.name + ':/')[:500]}")
        check(files(self.b) == self.before, "files of b changed")

    def goes_on(self, mark="afterwards"):
        """Work crosses in both directions, and all is equal in the end."""
        write(self.a, f"{mark}-a", text("from a"))
        write(self.b, f"{mark}-b", text("from b"))
        wait_for("work of b at a", lambda: (self.a / f"{mark}-b").exists(), LONG)
        wait_for("work of a at b", lambda: (self.b / f"{mark}-a").exists(), LONG)
        until_equal(self.a, self.b)
        self.group.until_in_sync()


# Row 12: absence is not deletion.


def unmounted(world):
    """Scenario 90: the volume goes while the agent runs, and comes back."""
    pair = Pair(world, "unmounted")
    pair.volume.unmount()
    pair.group.until_says(pair.server_a, "identity", "not there", "missing", "mark")
    # What somebody puts into the bare mount point is no content of the endpoint.
    write(pair.volume.path, "strange", b"not ours")
    pair.group.cluster.stop(pair.server_a)
    pair.group.start(pair.server_a)
    pair.group.until_says(pair.server_a, "identity", "not there", "missing", "mark")
    pair.nothing_left()
    (pair.volume.path / "strange").unlink()
    pair.volume.mount()
    pair.group.until_in_sync()
    pair.nothing_left()
    pair.goes_on()


def emptied(world):
    """Scenario 89: all is removed at the path, the state of the endpoint too, as `rm -rf PATH/{*,.*}` or a fresh volume leaves it."""
    pair = Pair(world, "emptied")
    # Into a folder beside, as a whole: so nobody sees half of it.
    shelter = pair.volume.path.parent / "emptied-shelter"
    system("mount", "-t", "tmpfs", "none", pair.volume.path)
    pair.group.until_says(pair.server_a, "identity", "not there", "missing", "mark")
    pair.nothing_left()
    system("umount", pair.volume.path)
    pair.group.until_in_sync()
    pair.nothing_left()
    # And by hand, without any mount: the mark of the endpoint goes first, then everything else.
    shelter.mkdir()
    (pair.volume.path / ".polder/identity").unlink()
    # What the agent writes there meanwhile goes too.
    system("rm", "-rf", pair.volume.path / ".polder")
    for entry in pair.volume.path.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    pair.group.until_says(pair.server_a, "identity", "not there", "missing", "mark")
    pair.nothing_left()


def replaced(world):
    """Scenario 91: a folder with other content, a copy of the folder, and another endpoint's volume at the path."""
    pair = Pair(world, "replaced")
    path = pair.volume.path / "never"
    group = world.share("moved")
    root = group.site("moved-a", world.cluster.folder / "moved-a")
    seed(root)
    away = world.cluster.folder / "moved-away"
    witness = group.site("moved-b", world.cluster.folder / "moved-b")
    wait_for("the seed at b", lambda: len(files(witness)) == 30, LONG)
    group.until_in_sync()
    head, before = group.head(), files(witness)
    for how in ("another", "copy"):
        os.rename(root, away)
        if how == "another":
            write(root, "other", b"another folder")
        else:
            system("cp", "-a", away, root)
            shutil.rmtree(root / "dir-1")
        group.until_says("moved-a", "identity", "replaced", "another", "copied", "copy", "mark")
        check(group.head() == head and files(witness) == before, f"something left the server ({how})")
        shutil.rmtree(root)
        os.rename(away, root)
        group.until_in_sync()
        check(group.head() == head and files(witness) == before, f"something left the server after {how}")
    write(root, "afterwards", b"1")
    wait_for("work goes on", lambda: (witness / "afterwards").exists(), LONG)
    # The volume of one endpoint where the other's is expected.
    pair.volume.unmount()
    other = Pair(world, "mistaken")
    system("mount", other.volume.device, pair.volume.path)
    pair.group.until_says(pair.server_a, "identity", "replaced", "another", "endpoint")
    pair.nothing_left()
    system("umount", "--lazy", pair.volume.path)
    pair.volume.mount()
    pair.group.until_in_sync()
    pair.nothing_left()
    pair.goes_on()
    other.nothing_left()
    other.goes_on()
    del path


def unreadable(world):
    """Scenario 74: a directory that the agent may not list and a file that it may not open, while users go on elsewhere."""
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]
    pair = Pair(world, "unreadable", prefix=prefix)
    os.chmod(pair.a / "dir-1", 0)
    write(pair.a, "dir-0/new", b"goes on")
    write(pair.a, "locked", b"nobody reads this")
    os.chmod(pair.a / "locked", 0)
    wait_for("work elsewhere", lambda: (pair.b / "dir-0/new").exists(), LONG)
    # A whole scan meets the directory too.
    pair.group.cluster.stop(pair.server_a)
    pair.group.start(pair.server_a, prefix)
    pair.group.until_error(pair.server_a, "dir-1", "unreadable")
    pair.group.until_error(pair.server_a, "locked", "permission")
    state = pair.group.endpoint(pair.server_a)
    check(not state["in_sync"] and state["reason"], f"the status is silent: {state}")
    now = files(pair.b)
    check({name: data for name, data in now.items() if name in pair.before} == pair.before, "something left the server")
    os.chmod(pair.a / "dir-1", 0o755)
    os.chmod(pair.a / "locked", 0o644)
    pair.group.until_in_sync()
    pair.goes_on()


# Row 13: what is full, read-only, away, revoked or off.


def disk_full_receiving(world):
    """Scenario 77: the volume where files arrive is full."""
    pair = Pair(world, "full-in", on="b")
    ballast = pair.volume.fill()
    write(pair.a, "large", os.urandom(3 * MIB))
    found = pair.group.until_error(pair.server_b, "large", "no_space")
    check("full" in (found.get("hint") or found["reason"]), f"no hint: {found}")
    state = pair.group.endpoint(pair.server_b)
    check(not state["in_sync"] and state["reason"], f"the status is silent: {state}")
    check({name: data for name, data in files(pair.b).items()} == pair.before, "files of b changed")
    ballast.unlink()
    until_equal(pair.a, pair.b)
    pair.goes_on()


def disk_full_sending(world):
    """The volume where users write: their work there is kept, and crosses when there is room again."""
    pair = Pair(world, "full-out")
    ballast = pair.volume.fill()
    with open(pair.a / "dir-0/file-0", "r+b") as out:
        out.write(b"CHANGED")
    for number in range(3):
        os.rename(pair.a / f"dir-1/file-{3 * number + 1}", pair.a / f"dir-1/renamed-{number}")
    def told():
        state = pair.group.endpoint(pair.server_a)
        reason = (state.get("reason") or "").lower()
        return "full" in reason or "space" in reason or state["in_sync"]
    wait_for("a status that says so, or the work done all the same", told, SOON)
    ballast.unlink()
    until_equal(pair.a, pair.b)
    pair.goes_on()


def disk_full_service(world):
    """The volume of the service: agents keep what they have, and send it later."""
    volume = world.volume("service-volume", mib=96)
    (volume.path / ".polder").mkdir()
    with Cluster(world.cluster.binary, folder=world.cluster.folder / "full-service", keep=True) as cluster:
        (cluster.folder / "service").symlink_to(volume.path)
        cluster.start_service()
        group = World(cluster).share("data")
        a, b = group.site("full-a"), group.site("full-b")
        seed_both(group, a, b)
        ballast = volume.fill()
        for number in range(4):
            write(a, f"large-{number}", os.urandom(MIB))
        def listed():
            found = [item for item in group.errors("full-a") if item["path"].startswith("large-")]
            return [item for item in found if "full" in item["reason"].lower()]
        wait_for("errors of the upload that say why", listed, SOON)
        def told():
            return any(one["code"] == "service_full" for one in cluster.json("status")["problems"])
        wait_for("a status that says so", told, SOON)
        ballast.unlink()
        until_equal(a, b)
        group.until_in_sync()


def share_quota(world):
    group = world.share("quota", "--quota", "1MiB")
    a, b = group.site("quota-a"), group.site("quota-b")
    write(a, "fits", os.urandom(600_000))
    wait_for("what fits", lambda: (b / "fits").exists(), LONG)
    write(a, "too-much", os.urandom(600_000))
    found = group.until_error("quota-a", "too-much", "share_quota")
    check("quota" in found["reason"] + (found.get("hint") or ""), f"no reason in words: {found}")
    check(not group.endpoint("quota-a")["in_sync"], "it says that it is in sync")
    check((a / "too-much").exists() and not (b / "too-much").exists(), "the file is lost or over the quota")
    # Others are not held up: what needs no room goes on.
    write(a, "small", b"small")
    wait_for("a small file beside it", lambda: (b / "small").exists(), LONG)
    (a / "fits").unlink()
    until_equal(a, b)
    group.until_in_sync()


def disk_quota(world):
    """Scenario 78: the quota of the volume where files arrive is used up."""
    pair = Pair(world, "disk-quota", on="b", kind="btrfs", mib=256)
    system("btrfs", "quota", "enable", pair.volume.path)
    used = sum(path.stat().st_blocks * 512 for path in pair.volume.path.rglob("*"))
    system("btrfs", "qgroup", "limit", str(used + 2 * MIB), pair.volume.path)
    write(pair.a, "large", os.urandom(8 * MIB))
    found = pair.group.until_error(pair.server_b, "large", "disk_quota")
    check("quota" in found["reason"] + (found.get("hint") or ""), f"no reason in words: {found}")
    changed = set(files(pair.b).items()) ^ set(pair.before.items())
    check(not changed, f"files of b changed: {[(name, len(data)) for name, data in changed]}")
    system("btrfs", "qgroup", "limit", "none", pair.volume.path)
    until_equal(pair.a, pair.b)
    pair.goes_on()


def read_only(world):
    """Scenario 78: the kernel makes the volume read-only after an error, under the agent; later an agent starts on such a volume."""
    pair = Pair(world, "read-only", on="b", options="errors=remount-ro")
    trigger = Path("/sys/fs/ext4") / Path(pair.volume.device).name / "trigger_fs_error"
    trigger.write_text("1")
    write(pair.a, "while-read-only", text("while"))
    pair.group.until_says(pair.server_b, "read-only", "readonly", "read_only")
    check(files(pair.b) == pair.before, "files of b changed")
    pair.volume.unmount()
    # Repaired and mounted again, which nobody does while somebody still holds it.
    wait_for("nobody holds the volume", lambda: not trigger.exists(), SOON)
    subprocess.run(["e2fsck", "-fy", pair.volume.device], capture_output=True)
    pair.volume.mount()
    until_equal(pair.a, pair.b)
    pair.goes_on("after-error")
    # Mounted read-only by an administrator.
    pair.group.cluster.stop(pair.server_b)
    system("mount", "-o", "remount,ro", pair.volume.path)
    write(pair.a, "while-mounted-read-only", text("while"))
    pair.group.start(pair.server_b)
    pair.group.until_says(pair.server_b, "read-only", "readonly")
    system("mount", "-o", "remount,rw", pair.volume.path)
    until_equal(pair.a, pair.b)
    pair.goes_on("after-remount")


def service_away(world):
    """Scenario 80 (in a cluster of its own): the service is killed, both sides go on working, and a command says what is wrong."""
    with Cluster(world.cluster.binary, folder=world.cluster.folder / "away", keep=True) as cluster:
        cluster.start_service()
        group = World(cluster).share("data")
        a, b = group.site("away-a"), group.site("away-b")
        seed_both(group, a, b)
        cluster.kill("service")
        write(a, "only-a", b"a")
        write(b, "only-b", b"b")
        write(a, "both", b"of a")
        write(b, "both", b"of b")
        (a / "dir-0/file-0").unlink()
        done = cluster.run("status", check=False)
        check(done.returncode != 0 and b"reach" in done.stderr.lower(), f"no clear word: {done}")
        def explained():
            done = cluster.run("explain", a / "only-a", "--state", cluster.folder / "state-away-a", check=False)
            return b"not reachable" in done.stdout.lower() + done.stderr.lower()
        wait_for("the agent explains it", explained, SOON)
        cluster.start_service()
        until_equal(a, b)
        group.until_in_sync()
        found = files(a)
        check(found["only-a"] == b"a" and found["only-b"] == b"b" and "dir-0/file-0" not in found, "work was lost")
        both = {data for name, data in found.items() if name.startswith("both")}
        check(both == {b"of a", b"of b"}, f"one of two edits is lost: {both}")


def revoked(world):
    """A revoked server's work stays on it; registered again it goes on, with the same folder."""
    pair = Pair(world, "revoked")
    cluster = pair.group.cluster
    cluster.run("server", "revoke", pair.server_a, "--yes")
    write(pair.a, "after-the-end", b"kept here")
    write(pair.b, "of-b", b"goes on")
    pair.group.until_says(pair.server_a, "revoked")
    state = cluster.folder / f"state-{pair.server_a}"
    def explained():
        done = cluster.run("explain", pair.a / "after-the-end", "--state", state, check=False)
        return b"no longer accepts" in (done.stdout + done.stderr).lower()
    wait_for("the agent says that it was revoked", explained, SOON)
    check(not (pair.b / "after-the-end").exists(), "a revoked server wrote")
    def audited():
        return [one for one in world.audit() if one["outcome"] == "refused" and pair.server_a in json.dumps(one)]
    wait_for("the refusal in the audit log", audited, SOON)
    check("not accepted" in (cluster.folder / "logs" / "service.log").read_text(), "the refusal is not in the log")
    # The cause goes: a new identity for the machine, and the folder joins again under it.
    cluster.stop(pair.server_a)
    cluster.run("endpoint", "delete", f"{pair.group.name}/{pair.server_a}", "--yes")
    again = f"{pair.server_a}-again"
    cluster.register(again)
    cluster.start_agent(again)
    cluster.endpoint(again, pair.a, pair.group.name)
    until_equal(pair.a, pair.b)
    check((pair.b / "after-the-end").read_bytes() == b"kept here", "work of the revoked server is lost")
    pair.goes_on()


def clock_off(world):
    """Scenario 84: the wall clock of an agent, then that of a service, a year ahead and a year behind; set right while they run."""
    shim = world.cluster.folder / "clock.so"
    source = world.cluster.folder / "clock.c"
    source.write_text(CLOCK_SHIM)
    system("cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl")
    year = 365 * 24 * 3600
    with Cluster(world.cluster.binary, folder=world.cluster.folder / "dates", keep=True) as cluster:
        clock = {name: cluster.folder / f"shift-{name}" for name in ("service", "agent")}
        plain = dict(cluster.environment)
        def under(name, shift):
            clock[name].write_text(str(shift))
            cluster.environment.update(LD_PRELOAD=str(shim), PERILS_CLOCK=str(clock[name]))
        def set_clock(name, shift):
            fresh = clock[name].with_suffix(".new")
            fresh.write_text(str(shift))
            fresh.rename(clock[name])
        def back():
            cluster.environment.pop("LD_PRELOAD", None)
            cluster.environment.pop("PERILS_CLOCK", None)
        under("service", 0)
        cluster.spawn("service", "service", "run", "--data", cluster.folder / "service", "--listen", f"127.0.0.1:{cluster.port}")
        back()
        wait_for("the service", lambda: cluster.run("status", check=False).returncode == 0, SOON)
        group = World(cluster).share("data")
        b = group.site("dates-b")
        cluster.register("dates-a")
        under("agent", 0)
        cluster.start_agent("dates-a")
        back()
        a = cluster.folder / "dates-a"
        cluster.endpoint("dates-a", a)
        seed_both(group, a, b)
        known = 0
        for who in ("agent", "service"):
            for shift in (year + 40 * 86400, -year):
                mark = f"{who}-{'ahead' if shift > 0 else 'behind'}"
                set_clock(who, shift)
                # A session that stands goes on; what matters is the next one.
                if who == "agent":
                    cluster.stop("dates-a")
                    under("agent", shift)
                    cluster.start_agent("dates-a")
                    back()
                else:
                    cluster.kill("service")
                    under("service", shift)
                    cluster.spawn("service", "service", "run", "--data", cluster.folder / "service", "--listen", f"127.0.0.1:{cluster.port}")
                    back()
                write(a, f"{mark}-a", text(mark))
                write(b, f"{mark}-b", text(mark))
                def told_or_done():
                    if (a / f"{mark}-b").exists() and (b / f"{mark}-a").exists():
                        return "done"
                    done = cluster.run("explain", a / f"{mark}-a", "--state", cluster.folder / "state-dates-a", check=False)
                    words = (done.stdout + done.stderr).lower()
                    return b"is the date right" in words and "told"
                outcome = wait_for(f"{mark}: work goes on, or the agent names the clock", told_or_done, LONG)
                print(f"  clock {mark}: {outcome}", flush=True)
                set_clock(who, 0)
                until_equal(a, b)
                wait_for("the service answers", lambda: cluster.run("status", check=False).returncode == 0, LONG)
                group.until_in_sync(90)
                known += 2
                check(len(files(a)) == 30 + known, "files were lost or doubled")
        del plain


def away_too_long(world):
    """Scenario 105: a server that was away for longer than changes are kept: what only it has waits for a person (I16)."""
    with Cluster(world.cluster.binary, folder=world.cluster.folder / "absence", keep=True) as cluster:
        cluster.environment.update(POLDER_SERVICE_HISTORY_S="1", POLDER_SERVICE_ABSENCE_S="1")
        cluster.start_service()
        own = World(cluster)
        group = own.share("data")
        a, b = group.site("here"), group.site("away")
        for name in ("kept", "old/one", "old/two", "gone"):
            write(a, name, text(name))
        until_equal(a, b)
        group.until_in_sync()
        before = files(a)
        cluster.stop("away")
        shutil.rmtree(a / "old")
        (a / "gone").unlink()
        write(b, "made/here", text("made here"))
        write(a, "after", text("after"))
        history = lambda: next(one["runs"] for one in own.rest("GET", "/v1/reconcilers")["items"] if one["name"] == "history")
        entries = lambda: {one["name"] for one in cluster.json("share", "ls", "data:/")}
        wait_for("the share follows", lambda: "after" in entries() and not entries() & {"gone", "old"}, LONG)
        runs = history()
        wait_for("the changes are forgotten", lambda: history() >= runs + 4, LONG)
        cluster.start_agent("away")
        listed = lambda: {one["path"] for one in cluster.json("review", "list")}
        extras = {"old", "old/one", "old/two", "gone", "made", "made/here"}
        wait_for("extras wait for a person", lambda: listed() == extras, LONG)
        wait_for("all else arrives", lambda: "after" in files(b), LONG)
        check({**before, "made/here": text("made here"), "after": text("after")} == files(b), "something left the server")
        check(set(files(a)) == {"kept", "after"}, "an extra came to another server")
        now = wait_for("the status says so", lambda: (now := group.endpoint("away"))["state"] == "review" and now, LONG)
        check((now["review"], now["errors"]) == (6, 0), f"status: {now}")
        cluster.kill("away")
        group.until_says("away", "not connected", state="offline")
        cluster.start_agent("away")
        wait_for("extras outlive a kill", lambda: group.endpoint("away")["state"] == "review" and listed() == extras, LONG)
        cluster.run("review", "accept", "--endpoint", "away", "made")
        wait_for("what was accepted is everywhere", lambda: "made/here" in files(a), LONG)
        cluster.run("review", "discard", "--endpoint", "away", "gone", "--yes")
        wait_for("what was discarded leaves", lambda: "gone" not in files(b), LONG)
        check("gone" not in files(a) and "old/one" in files(b), "too much was decided")
        cluster.run("review", "accept", "--endpoint", "away", "--all")
        until_equal(a, b)
        group.until_in_sync()
        check(files(a)["old/one"] == before["old/one"] and not listed(), "what was accepted is not there")
        # Who was asked is asked no more: a deletion is a deletion again.
        (a / "old/one").unlink()
        until_equal(a, b)


# Row 14: callers without the right. Forged packs, foreign shares and names like `../x` need a crafted peer: those are tests
# of the crates (docs/semantics.md).


def reader_writes(world):
    cluster = world.cluster
    world.share("readers")
    write(cluster.folder, "here", b"bytes")
    cluster.run("share", "put", cluster.folder / "here", "readers:/kept")
    made = world.rest("POST", "/v1/tokens", {"name": "only-reads", "role": "reader"})
    token = cluster.folder / "reader.token"
    token.write_text(made["token"])
    reader = ["--token-file", token]
    check(cluster.run("share", "cat", "readers:/kept", *reader) == b"bytes", "a reader cannot read")
    for command in (
        ["share", "put", cluster.folder / "here", "readers:/new"],
        ["share", "rm", "readers:/kept", "--yes"],
        ["share", "mkdir", "readers:/folder"],
        ["share", "mv", "readers:/kept", "readers:/moved"],
        ["share", "create", "another"],
        ["server", "token"],
        ["share", "delete", "readers", "--yes"],
    ):
        done = cluster.run(*command, *reader, check=False)
        words = done.stderr.decode().lower()
        check(done.returncode != 0 and ("role" in words or "allowed" in words), f"{command}: {done}")
    check(cluster.run("share", "cat", "readers:/kept") == b"bytes", "a reader changed something")
    refused = [one for one in world.audit() if one["actor"] == "token:only-reads" and one["outcome"] == "refused"]
    check(len(refused) >= 7, f"the audit log has {len(refused)} refusals")


CASES = [
    unmounted, emptied, replaced, unreadable, disk_full_receiving, disk_full_sending, disk_full_service, share_quota,
    disk_quota, read_only, service_away, away_too_long, revoked, clock_off, reader_writes,
]


def why_not_here():
    """What this machine lacks, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    needed = ["losetup", "mount", "umount", "mkfs.ext4", "mkfs.btrfs", "btrfs", "e2fsck", "setpriv", "cc"]
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)}"
    if subprocess.run(["losetup", "--find"], capture_output=True).returncode != 0:
        return "no loop devices"
    return None


def main():
    options = cases.arguments(__doc__).parse_args()
    lacking = why_not_here()
    if lacking:
        return cases.skipped("perils", lacking)
    failed = 1
    with Cluster(options.binary, keep=True) as cluster:
        world = World(cluster)

        def clear_away():
            for running in [one for one in cluster.processes if one != "service"]:
                cluster.stop(running)
            world.remove_volumes()

        try:
            cluster.start_service()
            failed = cases.run("perils", CASES, world, options.only, clear_away)
        finally:
            world.remove_volumes()
    return cases.finish(cluster, options.keep, failed)


if __name__ == "__main__":
    sys.exit(main())
