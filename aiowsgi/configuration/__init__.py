"""What :mod:`aiowsgi.config` is made of: options, values and addresses, and the places that settings come from."""
