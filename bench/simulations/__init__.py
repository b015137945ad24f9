"""Programs that hold more clients than a machine has sockets for: the server's engine, with connections in memory."""
