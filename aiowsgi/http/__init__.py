"""HTTP/1.x without I/O: bytes in, events out; heads and content in, bytes out."""
