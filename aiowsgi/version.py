"""The version, for everything that shows it: the package, SERVER_SOFTWARE, the command line and the build.

Thread: any.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
