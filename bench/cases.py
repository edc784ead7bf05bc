"""What the end-to-end programs have in common: named cases, one line for each, and what is left behind."""

import argparse
import os
import shutil
import subprocess
import time
import traceback

SKIPPED = 3


def arguments(doc):
    """The options that all of them have; `doc` is the program's own."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--binary", default="target/debug/polder")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the logs")
    return parser


def skipped(program, lacking):
    print(f"{program} SKIPPED {lacking}: NOTHING WAS SHOWN", flush=True)
    return SKIPPED


def run(program, cases, world, only, after_each=lambda: None):
    """Runs the cases that are asked for; how many failed."""
    failed = 0
    for case in cases:
        name = case.__name__
        if only and name not in only:
            continue
        began = time.monotonic()
        try:
            case(world)
            print(f"{program} {name} ok ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as error:
            failed += 1
            last = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(last) if frame.name == name), 0)
            print(f"{program} {name} FAILED line {line}: {type(error).__name__}: {error}", flush=True)
        finally:
            after_each()
    return failed


def unmount(path):
    """Takes all mounts at a path away, dead ones too."""
    while os.path.ismount(path) or subprocess.run(["umount", "--lazy", path], capture_output=True).returncode == 0:
        subprocess.run(["umount", "--lazy", path], capture_output=True)


def finish(cluster, keep, failed):
    """The folder with the logs goes, unless it is wanted or needed. The exit code."""
    if keep or failed:
        print(f"the logs are in {cluster.folder}/logs", flush=True)
    else:
        shutil.rmtree(cluster.folder, ignore_errors=True)
    return 1 if failed else 0
