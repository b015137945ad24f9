"""Where a request's microseconds go: each part of the way by itself, in this process and without a socket."""
