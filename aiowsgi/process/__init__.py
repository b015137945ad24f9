"""The process around a server: command line, application import, logging, signals.

Nothing below this layer touches the process that it lives in; everything that does is here.

Thread: the main thread.
"""

__all__: list[str] = []
