#!/usr/bin/env python3
"""A tiered endpoint given away over SMB (Samba) and NFS (NFS-Ganesha), through clients of others.

    bench/exports.py [--binary target/debug/polder] [--only NAME …] [--quick] [--keep]

One service, `a` with all bytes, `b` with names only until read. Samba exports both folders, NFS-Ganesha that of `b`; clients are `smbclient`,
`smbcacls` and libnfs. The settings are those of docs/samba.md and docs/nfs.md. Each case prints one line. Exit 0 only if all pass; 3 if the
machine cannot run them.
"""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
import servers
import tiered
from cases import check
from cluster import wait_for
from tiered import KIB, MIB, content, residency

SOON, LONG = 60, 240
# Accounts that every Debian has: whose files they are, and somebody else.
OWNER, OTHER = "daemon", "games"
OWNER_ID, OTHER_ID = 1, 5
PACKAGES = ["samba", "samba-vfs-modules", "smbclient", "nfs-ganesha", "nfs-ganesha-vfs", "libnfs-utils", "acl"]


class World(tiered.World):
    def __init__(self, cluster):
        super().__init__(cluster, quick=False)
        # Users are to reach what is below.
        cluster.folder.chmod(0o711)
        self.out = cluster.folder / "out"
        self.out.mkdir()
        self.settled()
        self.a.chmod(0o777)
        wait_for("the mode of the root", lambda: stat.S_IMODE(self.b.stat().st_mode) == 0o777, SOON)
        self.samba = servers.Samba(cluster.folder / "samba", {"a": self.a, "b": self.b}, [OWNER, OTHER])
        self.ganesha = servers.Ganesha(cluster.folder / "ganesha", self.b)
        self.samba.start()
        self.ganesha.start()

    def owned(self, size=300 * KIB, name=None, mode=0o644):
        """A file of OWNER's, tiered on b: its name, and its bytes."""
        _, here, data = self.make(size, name, mode, OWNER_ID)
        name = here.name
        wait_for(f"the owner of {name}", lambda: here.stat().st_uid == OWNER_ID, SOON)
        return name, data

    def recalled(self):
        """Bytes that were recalled for any program so far."""
        groups = self.cluster.json("status")["groups"]
        endpoints = [one for group in groups for one in group["endpoints"] if one["server"] == "b"]
        return sum(program["bytes"] for one in endpoints for program in one.get("tiering", {}).get("programs", []))

    def attributes(self, name, share="b"):
        """The letters of the attributes that a Windows client sees."""
        said = self.samba.do(share, OWNER, f'allinfo "{name}"')
        line = next(line for line in said.splitlines() if line.startswith("attributes:"))
        return line.split()[1] if len(line.split()) == 3 else ""

    def got(self, name, share="b", user=OWNER):
        copy = self.out / "copy"
        copy.unlink(missing_ok=True)
        self.samba.do(share, user, f'get "{name}" {copy}')
        return copy.read_bytes()

    def local(self, data):
        """A file of a client."""
        path = self.out / "local"
        path.write_bytes(data)
        return path

    def end(self):
        self.samba.stop()
        self.ganesha.stop()


def tiers_again(world, name):
    """No server keeps a file open, or otherwise from being given up, once its clients are gone."""
    def tiered_again():
        world.here("tier", world.b / name)
        return residency(world.b / name) == "tiered"

    wait_for(f"{name} is tiered again", tiered_again, SOON)


def refused(act):
    try:
        act()
    except OSError as error:
        return error
    return None


def smb_looks(world):
    """Lists, sizes, attributes and ACLs cause no recall; what is tiered is OFFLINE, and is not once it is here."""
    names = [world.owned(mode=0o604)[0] for _ in range(4)]
    (world.a / "small").write_bytes(b"small")
    wait_for("the small file", lambda: (world.b / "small").exists(), SOON)
    world.settled()
    before = world.recalled()
    said = world.samba.do("b", OWNER, "ls", "recurse", "ls", "du", *(f"allinfo {name}" for name in names))
    for name in names:
        check(f"{name} " in said and str(300 * KIB) in said, f"{name} is not listed: {said}")
        check(world.attributes(name) == "O", f"attributes of {name}: {world.attributes(name)!r}")
        world.samba.acl("b", OWNER, name)
    rows = {line.split()[0]: line.split()[1] for line in said.splitlines() if line.startswith("  file-")}
    check(set(rows.values()) == {"o"}, f"letters of a list: {rows}")
    check(world.attributes("small") == "", f"attributes of a small file: {world.attributes('small')!r}")
    check({residency(world.b / name) for name in names} == {"tiered"}, "recalled by looks")
    check(world.recalled() == before, "recalls were counted")
    name = names[0]
    world.samba.do("b", OWNER, f"setmode {name} +h")
    check(set(world.attributes(name)) == {"H", "O"}, f"hidden and tiered: {world.attributes(name)}")
    wait_for("the attribute on a", lambda: world.attributes(name, "a") == "H", SOON)
    check(residency(world.b / name) == "tiered", "recalled by an attribute")
    check(os.getxattr(world.b / name, "user.DOSATTRIB") == os.getxattr(world.a / name, "user.DOSATTRIB"), "others see what is stored")
    world.got(name)
    wait_for("it is here", lambda: residency(world.b / name) == "resident", SOON)
    check(world.attributes(name) == "H", f"hidden and here: {world.attributes(name)}")


def smb_read(world):
    """A read recalls for the user, and gives the right bytes; so does one with smbd's process for the other user."""
    name, data = world.owned(3 * MIB)
    check(world.got(name) == data, "wrong bytes")
    wait_for("it is here", lambda: residency(world.b / name) == "resident", SOON)
    check(world.got(name, user=OTHER) == data, "wrong bytes for another user")
    tiers_again(world, name)
    check(world.attributes(name) == "O" and world.got(name) == data, "wrong bytes once more")
    name, data = world.owned(20 * MIB)
    with contextlib.closing(servers.SmbFile(world.samba, "b", OWNER, name, os.O_RDONLY)) as file:
        check(file.pread(4096, 10 * MIB) == data[10 * MIB : 10 * MIB + 4096], "a piece from the middle")
        check(residency(world.b / name) == "partial" and world.attributes(name) == "O", f"a piece made it {residency(world.b / name)}")
    told = world.here("explain", world.b / name, check=True).decode()
    check(f"smbd of user {OWNER_ID}" in told, f"who recalled it: {told}")


def smb_write(world):
    """New files, files written anew, and appends reach a; the file that is appended to is recalled first."""
    mine = content("mine", MIB)
    world.samba.do("b", OWNER, f"put {world.local(mine)} mine")
    world.on_a("mine", mine)
    check((world.a / "mine").stat().st_uid == OWNER_ID, "whose it is")
    name, _ = world.owned()
    newer = content("newer", 400 * KIB)
    world.samba.do("b", OWNER, f"put {world.local(newer)} {name}")
    world.on_a(name, newer)
    name, data = world.owned()
    with contextlib.closing(servers.SmbFile(world.samba, "b", OWNER, name, os.O_RDWR)) as file:
        check(residency(world.b / name) == "tiered", "recalled by an open")
        file.pwrite(b"in the middle", 100_000)
        file.pwrite(b"at the end", len(data))
    world.on_a(name, data[:100_000] + b"in the middle" + data[100_013:] + b"at the end")
    name, data = world.owned(mode=0o600)
    said = world.samba.said("b", OTHER, f"put {world.local(newer)} {name}", f"get {name} {world.out / 'stolen'}")
    check(said.count("NT_STATUS_ACCESS_DENIED") == 2, f"somebody else: {said}")
    check(residency(world.b / name) == "tiered", "recalled by who may not")


def smb_names(world):
    """Renames and removals of tiered files reach a without a recall."""
    name, data = world.owned()
    over, _ = world.owned()
    gone, _ = world.owned()
    before = world.recalled()
    world.samba.do("b", OWNER, "mkdir folder", f"rename {name} folder\\moved", f"del {gone}", f"rename folder\\moved {over} -f", "mkdir empty", "rmdir empty")
    wait_for("the removals", lambda: not (world.a / name).exists() and not (world.a / gone).exists(), SOON)
    world.on_a(over, data)
    wait_for("the folder on a", lambda: (world.a / "folder").is_dir() and not (world.a / "folder" / "moved").exists(), SOON)
    check(residency(world.b / over) == "tiered" and world.recalled() == before, "recalled by names")
    check(world.got(over) == data, "wrong bytes")


def smb_acls(world):
    """A Windows ACL that is set on a tiered file is there on both servers, and holds; a change on a arrives on b."""
    name, data = world.owned()
    told = world.samba.acl("b", OWNER, name)
    domain = told[2 : told.index("G:")].rpartition("-")[0]
    owner, other = f"{domain}-1000", f"{domain}-1001"
    check(told.startswith(f"O:{owner}G:"), f"the owner: {told}")
    check(world.got(name, user=OTHER, share="a") == data, "before")
    denied = f"D:P(D;;FR;;;{other})(A;;FA;;;{owner})(A;;FR;;;WD)".replace("FR", "0x00120089").replace("FA", "0x001f01ff")
    world.samba.acl("b", OWNER, name, denied)
    aces = lambda share: sorted(world.samba.acl(share, OWNER, name).partition("D:")[2].partition("(")[2].rstrip(")").split(")("))
    wanted = aces("b")
    check(any(ace.startswith("D;") and ace.endswith(other) for ace in wanted) and len(wanted) == 3, f"as it was set: {wanted}")
    ntacl = lambda path: os.getxattr(path, "security.NTACL") if "security.NTACL" in os.listxattr(path) else None
    wait_for("the ACL on a", lambda: ntacl(world.a / name) == ntacl(world.b / name), SOON)
    world.settled()
    check(aces("a") == wanted, f"on a: {aces('a')}, on b: {wanted}")
    for share in ("a", "b"):
        check("NT_STATUS_ACCESS_DENIED" in world.samba.said(share, OTHER, f"get {name} {world.out / 'stolen'}"), f"it does not hold on {share}")
    check(residency(world.b / name) == "tiered", "recalled by an ACL")
    world.samba.acl("a", OWNER, name, f"D:P(A;;0x001f01ff;;;{owner})(A;;0x00120089;;;{other})")
    wait_for("the ACL on b", lambda: ntacl(world.a / name) == ntacl(world.b / name), SOON)
    wait_for("it holds on b", lambda: "NT_STATUS" not in world.samba.said("b", OTHER, f"get {name} {world.out / 'copy'}"), SOON)
    check((world.out / "copy").read_bytes() == data, "wrong bytes")
    folder = "inherits"
    world.samba.do("b", OWNER, f"mkdir {folder}")
    world.samba.acl("b", OWNER, folder, f"D:P(A;OICI;0x001f01ff;;;{owner})(A;OICI;0x00120089;;;{other})")
    world.samba.do("b", OWNER, f"put {world.local(data)} {folder}\\new")
    inherited = world.samba.acl("b", OWNER, f"{folder}/new")
    check(f"0x00120089;;;{other})" in inherited, f"inherited: {inherited}")
    world.on_a(f"{folder}/new", data)
    wait_for("the inherited ACL on a", lambda: ntacl(world.a / folder / "new") == ntacl(world.b / folder / "new"), SOON)


def posix_acls(world):
    """A POSIX ACL that is set on the mount is on a, and holds over SMB; one that is set on a is on the mount. (NFS-Ganesha 4.3 looks at modes alone.)"""
    name, data = world.owned(mode=0o600)
    acl = lambda path: subprocess.run(["getfacl", "--numeric", "--omit-header", "--absolute-names", path], capture_output=True, text=True, check=True).stdout
    subprocess.run(["setfacl", "-m", f"u:{OTHER_ID}:r", world.b / name], check=True)
    wait_for("the ACL on a", lambda: acl(world.a / name) == acl(world.b / name), SOON)
    check(f"user:{OTHER_ID}:r--" in acl(world.a / name), acl(world.a / name))
    check(residency(world.b / name) == "tiered", "recalled by an ACL")
    check(world.got(name, user=OTHER) == data, "wrong bytes over SMB")
    check("NT_STATUS_ACCESS_DENIED" in world.samba.said("b", OTHER, f"put {world.local(data)} {name}"), "writes were not granted")
    subprocess.run(["setfacl", "-m", f"u:{OTHER_ID}:-,g::r,o:r", world.a / name], check=True)
    wait_for("the change on b", lambda: acl(world.a / name) == acl(world.b / name), SOON)
    check("NT_STATUS_ACCESS_DENIED" in world.samba.said("b", OTHER, f"get {name} {world.out / 'stolen'}"), "it does not hold")


def smb_streams(world):
    """An alternate stream of a tiered file is written and read without a recall, and is on a."""
    name, data = world.owned()
    note = b"[ZoneTransfer]\r\nZoneId=3\r\n" * 20
    world.samba.do("b", OWNER, f"put {world.local(note)} {name}:Zone.Identifier")
    check(":Zone.Identifier:$DATA" in world.samba.do("b", OWNER, f"allinfo {name}"), "the stream is not listed")
    check(world.got(f"{name}:Zone.Identifier") == note, "wrong bytes of the stream")
    streams = lambda path: {key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith("user.DosStream.")}
    wait_for("the stream on a", lambda: streams(world.a / name) == streams(world.b / name) != {}, SOON)
    check(world.got(f"{name}:Zone.Identifier", "a") == note, "wrong bytes of the stream on a")
    check(residency(world.b / name) == "tiered", "recalled by a stream")
    for stream in streams(world.a / name):
        os.removexattr(world.a / name, stream)
    wait_for("it is gone on b", lambda: streams(world.b / name) == {}, SOON)
    check(world.got(name) == data, "wrong bytes of the file")


def smb_two_clients(world):
    """Two users read one tiered file at once: right bytes, fetched once. What is replaced and edited meanwhile is seen by both."""
    name, data = world.owned(12 * MIB)
    before = world.recalled()
    clients = [world.samba.begin("b", user, f"get {name} {world.out / user}") for user in (OWNER, OTHER)]
    for client, user in zip(clients, (OWNER, OTHER)):
        said = client.communicate(timeout=LONG)[0]
        check(client.returncode == 0 and (world.out / user).read_bytes() == data, f"{user}: {said}")
    wait_for("it is here", lambda: residency(world.b / name) == "resident", SOON)
    wait_for("the recall is counted", lambda: world.recalled() > before, SOON)
    check(world.recalled() - before < len(data) * 1.3, f"{world.recalled() - before} bytes were fetched")
    world.samba.do("b", OWNER, "mkdir watched")
    seen = world.samba.begin("b", OTHER, "notify watched")
    time.sleep(2)
    world.samba.do("b", OWNER, f"put {world.local(b'new')} watched\\seen")
    newer = content("newer", MIB)
    new = world.cluster.folder / "newer"
    new.write_bytes(newer)
    new.rename(world.a / name)
    wait_for("the edit on b", lambda: (world.b / name).stat().st_size == len(newer), SOON)
    for user in (OWNER, OTHER):
        check(world.got(name, user=user) == newer, f"{user} has another version")
    seen.terminate()
    check(" seen" in seen.communicate(timeout=SOON)[0], "a change of another client was not told")


def smb_deaths(world):
    """The worker is killed under open reads: right bytes, no error."""
    name, data = world.owned(24 * MIB)
    client = world.samba.begin("b", OWNER, f"get {name} {world.out / 'killed'}", f"get {name} {world.out / 'again'}")
    kills = 0
    while client.poll() is None:
        kills += world.kill_worker() is not None
        time.sleep(0.3 if kills < 3 else 2)
    said = client.communicate()[0]
    check(kills > 0, "nobody was killed")
    check(client.returncode == 0, f"the client failed: {said}")
    check((world.out / "killed").read_bytes() == data, "wrong bytes")
    check((world.out / "again").read_bytes() == data, "wrong bytes, again")


def smb_service_away(world):
    """Without the service a read waits, and the client's other calls, and other clients, do not."""
    name, data = world.owned()
    other, _ = world.owned()
    small = world.samba
    world.settled()
    world.cluster.stop("service")
    try:
        client = small.begin("b", OWNER, f"get {name} {world.out / 'waits'}")
        time.sleep(1)
        check(client.poll() is None, f"it did not wait: {client.communicate()[0] if client.poll() is not None else ''}")
        check(other in small.do("b", OTHER, "ls", f"allinfo {other}"), "another client's list")
        check(world.attributes(name) == "O", "a list of the same user")
    finally:
        world.cluster.start_service()
    said = client.communicate(timeout=LONG)[0]
    check(client.returncode == 0 and (world.out / "waits").read_bytes() == data, f"after the wait: {said}")


def nfs_looks(world):
    """Lists, sizes and attributes over NFS cause no recall; what changes on a is seen, new and removed names too."""
    name, data = world.owned()
    client = servers.Nfs(world.ganesha)
    world.settled()
    before = world.recalled()
    told = client.stat(f"/{name}")
    check(name in client.names() and ".polder" not in client.names(), f"names: {client.names()}")
    there = (world.a / name).stat()
    check((told.size, told.uid, stat.S_IMODE(told.mode), told.mtime) == (len(data), OWNER_ID, 0o644, int(there.st_mtime)), "attributes")
    check(told.used >= len(data), f"it seems to be sparse: {told.used}")
    subprocess.run(["nfs-ls", world.ganesha.url()], check=True, stdout=subprocess.DEVNULL, timeout=LONG)
    check(residency(world.b / name) == "tiered" and world.recalled() == before, "recalled by looks")
    newer = content("newer", MIB + 3)
    new = world.cluster.folder / "newer"
    new.write_bytes(newer)
    new.rename(world.a / name)
    (world.a / "folder of a").mkdir()
    wait_for("the edit over NFS", lambda: client.stat(f"/{name}").size == len(newer), SOON)
    wait_for("the folder over NFS", lambda: "folder of a" in client.names(), SOON)
    check(client.read(f"/{name}") == newer, "wrong bytes of the edit")
    many = [f"many {n}" for n in range(400)]
    for one in many:
        (world.a / "folder of a" / one).write_bytes(b"small")
    wait_for("many names over NFS", lambda: client.names("/folder of a") == sorted(many), SOON)
    for one in many[:3]:
        (world.a / "folder of a" / one).unlink()
    wait_for("fewer names over NFS", lambda: client.names("/folder of a") == sorted(many[3:]), SOON)
    (world.a / "folder of a").rename(world.a / "renamed on a")
    wait_for("the removal over NFS", lambda: "folder of a" not in client.names(), SOON)
    check(refused(lambda: client.stat("/folder of a")) is not None, "a name that is gone")
    check(client.names("/renamed on a") == sorted(many[3:]), "names of a renamed folder")


def nfs_read(world):
    """Reads recall and give the right bytes; a piece brings a piece; two clients at once; the programs of libnfs."""
    name, data = world.owned(3 * MIB)
    first, second = servers.Nfs(world.ganesha), servers.Nfs(world.ganesha, OTHER_ID)
    found = {}
    readers = [threading.Thread(target=lambda key=key, who=who: found.update({key: who.read(f"/{name}")})) for key, who in ((1, first), (2, second))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(LONG)
    check(found.get(1) == data and found.get(2) == data, "wrong bytes")
    wait_for("it is here", lambda: residency(world.b / name) == "resident", SOON)
    tiers_again(world, name)
    check(second.read(f"/{name}") == data, "wrong bytes once more")
    name, data = world.owned(20 * MIB)
    handle = first.open(f"/{name}")
    check(first.pread(handle, 4096, 10 * MIB) == data[10 * MIB : 10 * MIB + 4096], "a piece from the middle")
    first.shut(handle)
    check(residency(world.b / name) == "partial", f"a piece made it {residency(world.b / name)}")
    name, data = world.owned()
    done = subprocess.run(["nfs-cat", world.ganesha.url(f"/{name}")], capture_output=True, timeout=LONG)
    check(done.returncode == 0 and done.stdout == data, f"nfs-cat: exit {done.returncode}, {len(done.stdout)} bytes")
    told = world.here("explain", world.b / name, check=True).decode()
    check("ganesha.nfsd of user 0" in told, f"who recalled it: {told}")


def nfs_write(world):
    """New files, edits in the middle, cuts, modes, renames, links and removals over NFS reach a."""
    client = servers.Nfs(world.ganesha, OWNER_ID)
    mine = content("mine", 700 * KIB)
    client.create("/by nfs", mine, 0o640)
    world.on_a("by nfs", mine)
    there = (world.a / "by nfs").stat()
    check((there.st_uid, stat.S_IMODE(there.st_mode)) == (OWNER_ID, 0o640), f"whose it is: {there}")
    name, data = world.owned(MIB)
    handle = client.open(f"/{name}", os.O_RDWR)
    client.pwrite(handle, b"in the middle", 500_000)
    client.shut(handle)
    world.on_a(name, data[:500_000] + b"in the middle" + data[500_013:])
    name, data = world.owned()
    client.call("truncate", f"/{name}".encode(), 100_000)
    world.on_a(name, data[:100_000])
    name, data = world.owned()
    before = world.recalled()
    client.call("chmod", f"/{name}".encode(), 0o604)
    client.paths("mkdir", "/nfs folder")
    client.paths("rename", f"/{name}", "/nfs folder/moved")
    client.paths("link", "/nfs folder/moved", "/nfs folder/linked")
    client.paths("symlink", "moved", "/nfs folder/symlink")
    moved = world.a / "nfs folder" / "moved"
    wait_for("the rename", lambda: moved.exists() and not (world.a / name).exists(), SOON)
    wait_for("the mode", lambda: stat.S_IMODE(moved.stat().st_mode) == 0o604, SOON)
    wait_for("the links", lambda: (moved.parent / "linked").exists() and (moved.parent / "symlink").is_symlink(), SOON)
    check(moved.read_bytes() == data and (moved.parent / "linked").read_bytes() == data, "a's bytes")
    check(residency(world.b / "nfs folder" / "moved") == "tiered" and world.recalled() == before, "recalled by names")
    check(client.read("/nfs folder/moved") == data, "wrong bytes")
    for left in ("moved", "linked", "symlink"):
        client.paths("unlink", f"/nfs folder/{left}")
    client.paths("rmdir", "/nfs folder")
    wait_for("the removal", lambda: not moved.parent.exists(), SOON)
    check(refused(lambda: servers.Nfs(world.ganesha, OTHER_ID).create("/by nfs", b"x")) is not None, "anybody writes to it")


def nfs_deaths(world):
    """The worker is killed under an open read: right bytes, no error."""
    name, data = world.owned(8 * MIB)
    client, kills = servers.Nfs(world.ganesha), []

    def between():
        if len(kills) < 6 and world.kill_worker():
            kills.append(True)

    check(client.read(f"/{name}", between=between) == data, "wrong bytes")
    check(len(kills) > 2, f"killed {len(kills)} times")


def holder_dead(world):
    """With the holder dead: errors, no zeros, over both. After a new start, new sessions of Samba go on; NFS-Ganesha has to be started again."""
    name, data = world.owned()
    world.settled()
    world.cluster.kill("b")
    said = world.samba.said("b", OWNER, f"get {name} {world.out / 'dead'}")
    check("NT_STATUS_" in said and not (world.out / "dead").exists(), f"bytes without anybody: {said}")
    check(refused(lambda: servers.Nfs(world.ganesha, seconds=5).read(f"/{name}")) is not None, "bytes without anybody, over NFS")
    world.cluster.start_agent("b")
    wait_for("the mount", lambda: tiered.mounted_alive(world.b), SOON)
    check(world.got(name) == data, "wrong bytes over SMB")
    world.ganesha.stop()
    world.ganesha.start()
    check(servers.Nfs(world.ganesha).read(f"/{name}") == data, "wrong bytes over NFS")


CASES = [
    smb_looks, smb_read, smb_write, smb_names, smb_acls, posix_acls, smb_streams, smb_two_clients, smb_deaths, smb_service_away,
    nfs_looks, nfs_read, nfs_write, nfs_deaths, holder_dead,
]

LENGTHY = {"smb_service_away"}


def install():
    """What is missing, where there is an apt; what is installed does not start by itself."""
    if not servers.missing() or shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command]
            subprocess.run(apt, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False, stdout=subprocess.DEVNULL)
    finally:
        if is_ours:
            policy.unlink()


def lacks():
    """Why nothing can be shown here, in words; `None` when it can."""
    if (lacking := cases.lacks_of_a_gate("setfacl", "getfacl", "stdbuf")) is not None:
        return lacking
    install()
    if missing := servers.missing():
        return f"no {', '.join(missing)}"
    return None if servers.has_smb_port() else "port 445 is taken by another server"


def main():
    parser = cases.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="without the cases that wait long")
    options = parser.parse_args()
    lacking = lacks()
    if lacking:
        return cases.skipped("exports", lacking)
    chosen = [case for case in CASES if not (options.quick and case.__name__ in LENGTHY)]
    return cases.on_cluster("exports", options, World, chosen)


if __name__ == "__main__":
    sys.exit(main())
