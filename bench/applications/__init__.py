"""The applications that are measured. They import no server, and behave alike on all."""
