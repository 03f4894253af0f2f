"""The program under test: answers every request with its version."""

from http.server import BaseHTTPRequestHandler, HTTPServer

VERSION = "1"


class Handler(BaseHTTPRequestHandler):
    """Answers with the version."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(VERSION.encode())


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
