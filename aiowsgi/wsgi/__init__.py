"""PEP 3333, synchronous, in one thread: environ, start_response, write, iteration, close."""
