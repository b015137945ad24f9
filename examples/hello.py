def app(environ, start_response):
    name = environ["QUERY_STRING"] or "world"
    body = f"Hello, {name}!\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
