#!/usr/bin/env python3
"""What tiering and recalls take: the figures 7 to 10 of the third issue, each beside what one would use instead.

    bench/recall.py large     [--mib 1024] [--only polder,rclone]   first byte, rate, a read in the middle, the second read
    bench/recall.py small     [--files 100000] [--bytes 16384] [--threads 16]   giving many files up, and bringing them back
    bench/recall.py namespace [--files 1000000] [--dirs 10000]      a new server's names, `ls` meanwhile, its memory

Prints one line a figure: `program figure value`. Needs root and /dev/fuse. `rclone mount` reads the same bytes from `rclone serve
webdav` on loopback, with its full cache; a script of the distribution installs it. The binary is `target/release/polder` unless
`--binary` says otherwise.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cluster import Cluster, descendants, free_port, peak_memory_bytes, resident_bytes, wait_for
from run import figure, make_large, make_small

MIB, BLOCK, LONG = 1 << 20, 4096, 3600
RESIDENCY = "user.polder.residency"


def residency(path):
    return os.getxattr(path, RESIDENCY).decode()


def first_byte_ms(path):
    began = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        file.read(BLOCK)
    return (time.monotonic() - began) * 1000


def read_all(path):
    """Seconds for one sequential read, and how many bytes it gave."""
    began, count, block = time.monotonic(), 0, bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(block):
            count += got
    return time.monotonic() - began, count


def on_disk(path):
    return path.stat().st_blocks * 512


def arrived(world, name, size):
    here = world.b / name
    wait_for(f"{name} on b", lambda: here.exists() and here.stat().st_size == size and residency(here) == "tiered", LONG)
    return here


def large(arguments, world):
    source = world.cluster.folder / "source"
    make_large(source, 2, arguments.mib)
    size = arguments.mib * MIB
    for file in source.iterdir():
        file.rename(world.a / file.name)
    first, second = (arrived(world, f"large-{at}.bin", size) for at in range(2))
    wait_for("all is in sync", world.cluster.in_sync, LONG)
    tree = world.tree()

    middle = size // 2 // BLOCK * BLOCK
    before, began = on_disk(tree / second.name), time.monotonic()
    with open(second, "rb", buffering=0) as file:
        os.pread(file.fileno(), BLOCK, middle)
        figure("polder", "middle_read_ms", (time.monotonic() - began) * 1000)
    time.sleep(1)
    figure("polder", "middle_read_kept_mib", (on_disk(tree / second.name) - before) / MIB)

    figure("polder", "first_byte_ms", first_byte_ms(first))
    seconds, count = read_all(first)
    assert count == size, f"{count} bytes of {size}"
    figure("polder", "cold_read_mb_per_s", size / seconds / 1e6)
    wait_for("the file is here", lambda: residency(first) == "resident", 60)
    ratios = []
    for _ in range(5):
        raw, _ = read_all(tree / first.name)
        again, _ = read_all(first)
        ratios.append(raw / again)
    figure("polder", "second_read_to_raw", statistics.median(ratios))
    if "rclone" in arguments.only:
        rclone(world.cluster.folder, world.a, "large-1.bin", size)


def rclone(folder, served, name, size):
    """The same from an `rclone serve webdav` of the same files."""
    if not shutil.which("rclone") or not shutil.which("fusermount"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "rclone", "fuse3"], check=True, capture_output=True)
    port, mount = free_port(), folder / "rclone"
    mount.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "HOME": str(folder / "home")}}
    server = subprocess.Popen(["rclone", "serve", "webdav", str(served), "--addr", f"127.0.0.1:{port}", "--read-only"], **quiet)
    client = subprocess.Popen(
        ["rclone", "mount", f":webdav,url='http://127.0.0.1:{port}':", str(mount), "--vfs-cache-mode", "full",
         "--cache-dir", str(folder / "rclone-cache"), "--read-only"], **quiet)
    try:
        wait_for("rclone's mount", lambda: os.path.ismount(mount) and (mount / name).exists(), 60)
        middle, began = size // 2, time.monotonic()
        with open(mount / name, "rb", buffering=0) as file:
            os.pread(file.fileno(), BLOCK, middle)
        figure("rclone", "middle_read_ms", (time.monotonic() - began) * 1000)
        other = name.replace("1", "0")
        figure("rclone", "first_byte_ms", first_byte_ms(mount / other))
        seconds, count = read_all(mount / other)
        assert count == size, f"{count} bytes of {size}"
        figure("rclone", "cold_read_mb_per_s", size / seconds / 1e6)
    finally:
        subprocess.run(["umount", "--lazy", mount], capture_output=True)
        for process in (client, server):
            process.terminate()
            process.wait(30)


def small(arguments, world):
    source = world.cluster.folder / "source"
    dirs = max(1, arguments.files // 200)
    make_small(source, arguments.files, dirs, arguments.bytes)
    shutil.move(source, world.a / "small")
    wait_for("all is in sync", lambda: (world.b / "small").exists() and world.cluster.in_sync(), LONG)
    figure("polder", "names_in_sync", arguments.files)

    def took(what, *command):
        began = time.monotonic()
        done = world.here(*command)
        seconds = time.monotonic() - began
        print(done.stdout.decode().strip().splitlines()[-1:], done.stderr.decode().strip().splitlines()[-1:])
        figure("polder", f"{what}_files_per_s", arguments.files / seconds)

    # They came as names: what is given up first has to be here.
    for again in ("first_", ""):
        took(f"{again}recall", "recall", world.b / "small", "--threads", arguments.threads)
        took(f"{again}tier", "tier", world.b / "small")
    some = random.Random(1).sample(sorted((world.b / "small").rglob("*.dat")), 200)
    print("tiered of 200:", sum(residency(path) == "tiered" for path in some))
    same = all(path.read_bytes() == (world.a / path.relative_to(world.b)).read_bytes() for path in some)
    figure("polder", "recalled_bytes_right", int(same))
    figure("polder", "agent_peak_mib", sum(map(peak_memory_bytes, descendants(world.cluster.processes["b"].pid))) / MIB)


def namespace(arguments):
    with Cluster(arguments.binary, arguments.folder) as cluster:
        cluster.start_service()
        cluster.share()
        site = cluster.folder / "a"
        for at in range(arguments.dirs):
            (site / f"d{at % 100:03}" / f"d{at:06}").mkdir(parents=True)
        files = arguments.files - arguments.dirs - 100
        for at in range(files):
            part = at % arguments.dirs
            (site / f"d{part % 100:03}" / f"d{part:06}" / f"f{at}").write_bytes(b"%d" % at)
        cluster.site("a")
        wait_for("the upload", cluster.in_sync, LONG)
        cluster.stop("a")
        began = time.monotonic()
        world = cases.Tiered(cluster, with_a=False)
        figure("polder", "mount_s", time.monotonic() - began)
        began, waits = time.monotonic(), []
        generator, peak = random.Random(1), 0

        def status():
            groups = cluster.json("status")["groups"]
            return next((e for group in groups for e in group["endpoints"] if e["server"] == "b"), {})

        while not status().get("in_sync"):
            part = generator.randrange(arguments.dirs)
            asked = time.monotonic()
            subprocess.run(["ls", "-l", world.b / f"d{part % 100:03}" / f"d{part:06}"], capture_output=True)
            waits.append(time.monotonic() - asked)
            peak = max(peak, sum(map(resident_bytes, descendants(cluster.processes["b"].pid))))
            if time.monotonic() - began > LONG:
                raise TimeoutError("the names did not come")
        figure("polder", "names_objects_per_s", arguments.files / (time.monotonic() - began))
        figure("polder", "ls_median_ms", statistics.median(waits) * 1000)
        figure("polder", "ls_worst_ms", max(waits) * 1000)
        figure("polder", "agent_peak_mib", peak / MIB)
        count = int(subprocess.run(f"find '{world.b}' -mindepth 1 | wc -l", shell=True, capture_output=True).stdout)
        figure("polder", "names_found", count)
        cluster.stop("b")
        cases.unmount(world.b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["large", "small", "namespace"])
    parser.add_argument("--binary", default=str(Path(__file__).parent.parent / "target/release/polder"))
    parser.add_argument("--folder", help="where to work; must be empty (default: a temporary folder)")
    parser.add_argument("--only", default="polder,rclone")
    parser.add_argument("--files", type=int)
    parser.add_argument("--dirs", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=16384)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=16)
    arguments = parser.parse_args()
    arguments.files = arguments.files or {"small": 100_000, "namespace": 1_000_000}.get(arguments.what, 0)
    if lacking := cases.lacks_of_a_gate():
        return cases.skipped("recall", lacking)
    if arguments.what == "namespace":
        return namespace(arguments)
    with Cluster(arguments.binary, arguments.folder) as cluster:
        cluster.start_service()
        cluster.share()
        world = cases.Tiered(cluster)
        try:
            {"large": large, "small": small}[arguments.what](arguments, world)
        finally:
            cluster.stop("b")
            cases.unmount(world.b)


if __name__ == "__main__":
    sys.exit(main())
