"""``python -m aiowsgi``: the command line.

Thread: the main thread.
"""

from aiowsgi.process.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
