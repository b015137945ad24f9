"""Load, from processes of its own: wrk for closed loops, and an asyncio generator for what wrk cannot do.

``python -m bench.load`` reads a specification as JSON on its standard input, and writes a result as JSON to its
standard output.
"""
