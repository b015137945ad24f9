"""The thread-pool bridge: pool, queue, and the pipes between loop and threads. The only user of ``threading``."""
