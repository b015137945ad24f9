"""Applications of real frameworks, served over real sockets."""
