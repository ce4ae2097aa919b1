"""A client in a plain Python, which says "ready" when it is connected and "clean" after a clean end: ``outside.py APP PORT``."""

import asyncio
import importlib
import sys


def main() -> None:
    name, port = sys.argv[1:]
    asyncio.run(importlib.import_module(name).watch(int(port), lambda: print("ready", flush=True)))
    print("clean", flush=True)


if __name__ == "__main__":
    main()
