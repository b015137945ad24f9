"""What the allocator does with memory that large bodies leave behind.

A worker thread makes a body, and the loop frees it once it has been sent. If glibc finds more than its threshold free
at the end of a heap, it returns that to the system; the next body then costs a page fault for every 4 KB. The threshold
begins at 128 KB and rises to twice the size of the largest block that has been freed. Freeing a block of 16 MB, which
is never touched and costs nothing, sets it to 32 MB: a 1 MB body made for each request then costs 290 µs instead of
760, and a 1 MB upload 340 instead of 840.

If the operator has set ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_``, the threshold does not move, and this
has no effect; nor has it with other allocators. As a guest in another program's process, the server leaves it alone.

Thread: any.

Source: mallopt(3), M_MMAP_THRESHOLD.
"""

from __future__ import annotations

__all__ = ["keep_freed_memory"]

# Half of what is kept. 8 MB was not enough for 64 connections that are sent 1 MB each; glibc goes by at most 32 MB.
_BLOCK_SIZE = 16 * 1024 * 1024


def keep_freed_memory() -> None:
    """Have the allocator keep some freed memory for the next request, in a process of the server's own."""
    bytes(_BLOCK_SIZE)
