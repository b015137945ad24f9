"""What stands behind :class:`aiowsgi.Channel`: its home in this process, and its home in a broker."""
