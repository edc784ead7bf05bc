#!/usr/bin/env python3
"""Benchmarks of Polder beside rsync and Syncthing, on the same data in the same run.

    bench/run.py real   [--trees /usr/share,/usr/include]
    bench/run.py small  [--files 50000] [--dirs 500] [--bytes 4096]
    bench/run.py large  [--files 2] [--mib 1024]
    bench/run.py delta  [--mib 1024]
    bench/run.py latency [--times 200] [--load-files 0]
    bench/run.py rename [--files 100000]
    bench/run.py million [--files 1000000] [--dirs 10000]

Prints one line a figure: `program figure value`. Needs root for the comparison's page cache to be dropped only where
`--cold` is given. `--only polder` leaves the others out. The binary is `target/release/polder` unless `--binary` says otherwise.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import syncthing
from cluster import Cluster, count_entries, cpu_seconds, descendants, peak_memory_bytes, resident_bytes, wait_for


def figure(program, name, value):
    print(f"{program} {name} {value:.3f}" if isinstance(value, float) else f"{program} {name} {value}", flush=True)


def make_small(folder, files, dirs, size, seed=1):
    """`files` files of about `size` random bytes (half to one and a half) in `dirs` directories."""
    generator = random.Random(seed)
    for at in range(dirs):
        (folder / f"d{at % 20:02}" / f"d{at:05}").mkdir(parents=True, exist_ok=True)
    for at in range(files):
        length = generator.randint(size // 2, size + size // 2)
        part = at % dirs
        (folder / f"d{part % 20:02}" / f"d{part:05}" / f"file-{at:07}.dat").write_bytes(generator.randbytes(length))


def make_large(folder, files, mib, seed=1):
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(files):
        generator = random.Random(seed + at)
        with open(folder / f"large-{at}.bin", "wb") as out:
            for _ in range(mib):
                out.write(generator.randbytes(1 << 20))


def timed_until(entries, folder, seconds=1800):
    """Waits until a folder has that many entries.

    A walk over the folder costs what hundreds of files cost, on the same processors: so the next one comes when half of
    what is missing will have come at the rate so far, and often only towards the end.
    """
    began = time.monotonic()
    first = seen = count_entries(folder)
    while seen < entries:
        took = time.monotonic() - began
        if took > seconds:
            raise TimeoutError(f"{folder} has {seen} of {entries} entries after {seconds} s")
        came = seen - first
        pause = took * (entries - seen) / came / 2 if came else 0.1
        time.sleep(min(max(pause, 0.05), 2.0))
        seen = count_entries(folder)


def same_tree(a, b):
    """What an independent program finds different between two trees."""
    done = subprocess.run(
        ["rsync", "-aAXHnci", "--delete", "--exclude=/.polder", "--exclude=/.stfolder", f"{a}/", f"{b}/"],
        capture_output=True, check=True,
    )
    return [line for line in done.stdout.decode(errors="replace").splitlines() if line]


def report_memory(cluster):
    for name, process in cluster.processes.items():
        peak = max(peak_memory_bytes(pid) for pid in descendants(process.pid))
        figure("polder", f"peak_memory_mib_{name}", peak / 2**20)


def report_cpu(cluster, name, count, unit="object", before=None):
    """Processor time a unit, per process, since `before`; returns the times now."""
    now = {process: sum(map(cpu_seconds, descendants(at.pid))) for process, at in cluster.processes.items()}
    for process, seconds in now.items():
        used = seconds - (before or {}).get(process, 0)
        figure("polder", f"{name}_cpu_us_per_{unit}_{process}", used / count * 1e6)
    return now


def run_rsync(source, target):
    subprocess.run(["rsync", "-a", f"{source}/", f"{target}/"], check=True)


def run_syncthing(source, target, entries):
    """Both instances know each other and are idle; then the data appears by rename of its top entries."""
    with syncthing.Syncthing(source.parent / "st-a", target) as _:
        site = source.parent / "st-a"
        (site / "probe").write_text("x")
        wait_for("syncthing to connect", lambda: (target / "probe").exists(), 120)
        began = time.monotonic()
        for entry in list(source.iterdir()):
            entry.rename(site / entry.name)
        timed_until(entries + 1, target)
        took = time.monotonic() - began
        for entry in list(site.iterdir()):
            if entry.name not in ("probe", ".stfolder"):
                entry.rename(source / entry.name)
    return took


def sent_bytes(cluster, server):
    """Bytes that a server has sent to the service since it started, by its own count."""
    status = cluster.json("status")
    for group in status["groups"]:
        for endpoint in group["endpoints"]:
            if endpoint["server"] == server:
                return endpoint["upload"]["bytes_moved"]
    raise KeyError(server)


def two_sites(cluster):
    cluster.start_service()
    cluster.share()
    a, b = cluster.site("site-a"), cluster.site("site-b")
    (a / "probe").write_text("x")
    wait_for("the first file", lambda: (b / "probe").exists(), 60)
    return a, b


def move_in(source, site):
    for entry in list(source.iterdir()):
        entry.rename(site / entry.name)


def differences(name, a, b):
    """Prints how many differences there are, and the first of them."""
    found = same_tree(a, b)
    figure("polder", name, len(found))
    for line in found[:5]:
        print(f"  {line}")


def real(arguments):
    """Real trees of this system: tens of thousands of files, links and odd modes."""
    with Cluster(arguments.binary, arguments.folder) as cluster:
        a, b = two_sites(cluster)
        began = time.monotonic()
        for at, tree in enumerate(arguments.trees.split(",")):
            if Path(tree).is_dir():
                subprocess.run(["cp", "-a", tree, a / f"{at}-{Path(tree).name}"], check=True)
        figure("polder", "real_copy_s", time.monotonic() - began)
        entries = count_entries(a)
        timed_until(entries, b)
        wait_for("both to be in sync", cluster.in_sync, 600)
        figure("polder", "real_entries", entries)
        figure("polder", "real_objects_per_s_with_the_copy", entries / (time.monotonic() - began))
        differences("real_differences", a, b)


def small(arguments):
    """Nothing is removed before the last program has run: for minutes after a removal ext4 takes its time to find an inode."""
    with Cluster(arguments.binary, arguments.folder) as cluster:
        source = cluster.folder / "source"
        source.mkdir()
        make_small(source, arguments.files, arguments.dirs, arguments.bytes)
        os.sync()
        entries = count_entries(source)
        if "rsync" in arguments.only:
            began = time.monotonic()
            run_rsync(source, cluster.folder / "rsync-target")
            figure("rsync", "small_objects_per_s", entries / (time.monotonic() - began))
        if "syncthing" in arguments.only:
            took = run_syncthing(source, cluster.folder / "st-b", entries)
            figure("syncthing", "small_objects_per_s", entries / took)
        a, b = two_sites(cluster)
        began = time.monotonic()
        move_in(source, a)
        timed_until(entries + 1, b)
        took = time.monotonic() - began
        wait_for("both to be in sync", cluster.in_sync, 300)
        figure("polder", "small_objects_per_s", entries / took)
        figure("polder", "small_objects_per_s_until_status_in_sync", entries / (time.monotonic() - began))
        differences("small_differences", a, b)
        report_memory(cluster)
        used = report_cpu(cluster, "small", entries)
        # The same set into an empty server: a third site joins.
        cluster.register("site-c")
        cluster.start_agent("site-c")
        c = cluster.folder / "site-c"
        began = time.monotonic()
        cluster.endpoint("site-c", c, "data", "--initial-download", "full")
        timed_until(entries + 1, c)
        figure("polder", "full_download_objects_per_s", entries / (time.monotonic() - began))
        wait_for("all to be in sync", cluster.in_sync, 300)
        report_cpu(cluster, "full_download", entries, before=used)
        differences("full_download_differences", a, c)


def large(arguments):
    with Cluster(arguments.binary, arguments.folder) as cluster:
        source = cluster.folder / "source"
        make_large(source, arguments.files, arguments.mib)
        os.sync()
        total = arguments.files * arguments.mib
        if "rsync" in arguments.only:
            began = time.monotonic()
            run_rsync(source, cluster.folder / "rsync-target")
            os.sync()
            figure("rsync", "large_mib_per_s_with_sync", total / (time.monotonic() - began))
            began = time.monotonic()
            run_rsync(source, cluster.folder / "rsync-target-2")
            figure("rsync", "large_mib_per_s", total / (time.monotonic() - began))
            os.sync()
        if "syncthing" in arguments.only:
            took = run_syncthing(source, cluster.folder / "st-b", arguments.files)
            figure("syncthing", "large_mib_per_s", total / took)
            os.sync()
        a, b = two_sites(cluster)
        began = time.monotonic()
        move_in(source, a)
        timed_until(arguments.files + 1, b)
        figure("polder", "large_mib_per_s", total / (time.monotonic() - began))
        differences("large_differences", a, b)
        report_cpu(cluster, "large", total, "mib")
        report_memory(cluster)


def delta(arguments):
    with Cluster(arguments.binary, arguments.folder) as cluster:
        a, b = two_sites(cluster)
        source = cluster.folder / "source"
        make_large(source, 1, arguments.mib)
        move_in(source, a)
        timed_until(2, b)
        wait_for("both to be in sync", cluster.in_sync, 600)
        path = a / "large-0.bin"

        def measure(name, change):
            before = sent_bytes(cluster, "site-a")
            began = time.monotonic()
            change()
            ready = (path.stat().st_size, path.stat().st_mtime_ns)
            other = b / path.name
            wait_for(name, lambda: (other.stat().st_size, other.stat().st_mtime_ns) == ready, 600)
            figure("polder", f"delta_{name}_s", time.monotonic() - began)
            wait_for("both to be in sync", cluster.in_sync, 600)
            figure("polder", f"delta_{name}_sent_bytes", sent_bytes(cluster, "site-a") - before)
            differences(f"delta_{name}_differences", a, b)

        def overwrite():
            with open(path, "r+b") as file:
                file.seek(arguments.mib << 19)
                file.write(random.Random(7).randbytes(1 << 20))

        def insert():
            with open(path, "rb") as old, open(cluster.folder / "new.bin", "wb") as new:
                new.write(b"!")
                shutil.copyfileobj(old, new, 1 << 20)
            os.replace(cluster.folder / "new.bin", path)

        measure("overwrite_1_mib", overwrite)
        measure("insert_1_byte", insert)


def percentiles(program, name, seconds):
    ordered = sorted(seconds)
    figure(program, f"{name}_p50_ms", statistics.median(ordered) * 1000)
    figure(program, f"{name}_p99_ms", ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000)
    figure(program, f"{name}_max_ms", ordered[-1] * 1000)


def until_readable(path, content, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not arrive within {seconds} s")
        time.sleep(0.0005)


def latency(arguments):
    with Cluster(arguments.binary, arguments.folder) as cluster:
        a, b = two_sites(cluster)
        if arguments.load_files:
            source = cluster.folder / "source"
            source.mkdir()
            make_small(source, arguments.load_files, 500, 4096)
            os.sync()
            (a / "latency").mkdir()
            wait_for("the folder", (b / "latency").exists, 60)
            move_in(source, a)
        else:
            (a / "latency").mkdir()
            wait_for("the folder", (b / "latency").exists, 60)
        name = "loaded" if arguments.load_files else "idle"
        expected = count_entries(a)
        took, during, is_loaded, counted = [], [], bool(arguments.load_files), time.monotonic()
        while len(took) < arguments.times or is_loaded:
            if is_loaded and time.monotonic() - counted > 1:
                # Counting takes time too, so it is not done for each file.
                is_loaded, counted = count_entries(b) < expected, time.monotonic()
            content = os.urandom(4096)
            file = f"file-{len(took)}"
            began = time.monotonic()
            (a / "latency" / file).write_bytes(content)
            until_readable(b / "latency" / file, content)
            took.append(time.monotonic() - began)
            if is_loaded:
                during.append(took[-1])
            time.sleep(0.02)
        percentiles("polder", f"latency_{name}", took[: arguments.times])
        if during:
            figure("polder", "latency_while_load_lasts_count", len(during))
            percentiles("polder", "latency_while_load_lasts", during)
        took = []
        for at in range(arguments.times):
            content = os.urandom(4096)
            (cluster.folder / "put").write_bytes(content)
            began = time.monotonic()
            cluster.run("share", "put", cluster.folder / "put", f"data:latency/put-{at}")
            returned = time.monotonic()
            until_readable(b / "latency" / f"put-{at}", content)
            took.append((returned - began, time.monotonic() - began))
        percentiles("polder", f"put_{name}_command_alone", [one for one, _ in took])
        percentiles("polder", f"put_{name}_until_readable", [both for _, both in took])


def rename(arguments):
    with Cluster(arguments.binary, arguments.folder) as cluster:
        a, b = two_sites(cluster)
        source = cluster.folder / "source" / "folder"
        source.mkdir(parents=True)
        for at in range(arguments.files):
            (source / f"file-{at}").write_bytes(b"%d" % at)
        os.sync()
        move_in(cluster.folder / "source", a)
        timed_until(arguments.files + 2, b)
        wait_for("both to be in sync", cluster.in_sync, 600)
        before = sent_bytes(cluster, "site-a")
        began = time.monotonic()
        (a / "folder").rename(a / "renamed")
        wait_for("the rename", (b / "renamed").exists, 60)
        figure("polder", "rename_s", time.monotonic() - began)
        figure("polder", "rename_sees_all_files", len(os.listdir(b / "renamed")))
        wait_for("both to be in sync", cluster.in_sync, 60)
        figure("polder", "rename_sent_bytes", sent_bytes(cluster, "site-a") - before)


def tree_bytes(folder, names):
    return sum(path.stat().st_blocks * 512 for path in Path(folder).rglob("*") if path.is_file() and any(n in path.name for n in names))


def million(arguments):
    with Cluster(arguments.binary, arguments.folder) as cluster:
        cluster.start_service()
        cluster.share()
        empty = cluster.site("site-empty")
        wait_for("the empty endpoint", cluster.in_sync, 60)
        empty_memory = sum(resident_bytes(pid) for pid in descendants(cluster.processes["site-empty"].pid))
        figure("polder", "agent_empty_mib", empty_memory / 2**20)
        cluster.stop("site-empty")
        site = cluster.folder / "site-a"
        for at in range(arguments.dirs):
            (site / f"d{at % 100:03}" / f"d{at:06}").mkdir(parents=True)
        for at in range(arguments.files - arguments.dirs - 100):
            part = at % arguments.dirs
            (site / f"d{part % 100:03}" / f"d{part:06}" / f"f{at}").write_bytes(b"%d" % at)
        began = time.monotonic()
        cluster.site("site-a")

        def done(since):
            """In sync, by a report that is younger than `since`: what an agent said before it stopped does not count."""
            status = cluster.json("status")
            mine = [e for g in status["groups"] for e in g["endpoints"] if e["server"] == "site-a"]
            heard = mine[0].get("heard_at") if mine else None
            return heard and datetime.fromisoformat(heard).timestamp() > since and mine[0]["in_sync"]

        wait_for("the first upload", lambda: done(0), 3600)
        figure("polder", "million_initial_upload_objects_per_s", arguments.files / (time.monotonic() - began))
        cluster.stop("site-a")
        began, since = time.monotonic(), time.time()
        cluster.start_agent("site-a")
        wait_for("the scan", lambda: done(since), 300)
        figure("polder", "million_start_and_scan_s", time.monotonic() - began)
        time.sleep(5)
        pids = descendants(cluster.processes["site-a"].pid)
        total = sum(resident_bytes(pid) for pid in pids)
        figure("polder", "million_agent_steady_mib", total / 2**20)
        figure("polder", "million_agent_above_empty_mib", (total - empty_memory) / 2**20)
        state = tree_bytes(site / ".polder", (".db", ".sqlite"))
        figure("polder", "million_state_bytes_per_node", state / arguments.files)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["real", "small", "large", "delta", "latency", "rename", "million"])
    parser.add_argument("--binary", default=str(Path(__file__).parent.parent / "target/release/polder"))
    parser.add_argument("--folder", help="where to work; must be empty (default: a temporary folder)")
    parser.add_argument("--only", default="polder,rsync,syncthing")
    parser.add_argument("--files", type=int)
    parser.add_argument("--dirs", type=int)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--trees", default="/usr/share,/usr/include,/usr/lib/python3,/usr/lib/python3.11,/usr/lib/python3.13")
    parser.add_argument("--load-files", type=int, default=0)
    arguments = parser.parse_args()
    defaults = {"small": (50_000, 500), "large": (2, 0), "rename": (100_000, 0), "million": (1_000_000, 10_000)}
    files, dirs = defaults.get(arguments.what, (0, 0))
    arguments.files = arguments.files or files
    arguments.dirs = arguments.dirs or dirs
    if "syncthing" in arguments.only and arguments.what in ("small", "large"):
        syncthing.install()
    {"real": real, "small": small, "large": large, "delta": delta, "latency": latency, "rename": rename, "million": million}[arguments.what](arguments)


if __name__ == "__main__":
    main()
