"""Programs that run as a server under test: where a server has no command of its own, or needs an adapter."""
