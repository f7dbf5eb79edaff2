"""One origin in front of a container registry, as Harbor is one: `/service/token` gives
out tokens that the registry behind it believes, everything else is handed on.

python3 front.py PORT REGISTRY_PORT KEY CERTIFICATE

Anybody may pull; whoever sends any credential may push. Tokens are signed by `openssl`,
so that the standard library is all that this needs.
"""

import base64
import http.client
import json
import subprocess
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, BEHIND, KEY, CERTIFICATE = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
with open(CERTIFICATE) as file:
    DER = "".join(line for line in file.read().splitlines() if "CERTIFICATE" not in line)


def encoded(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(audience, access):
    """A JSON web token, signed with RS256 (RFC 7519, RFC 7515)."""
    now = int(time.time())
    claims = {"iss": "tests", "sub": "tests", "aud": audience, "exp": now + 300, "nbf": now - 60,
              "iat": now, "jti": str(time.monotonic_ns()), "access": access}
    text = encoded({"typ": "JWT", "alg": "RS256", "x5c": [DER]}) + b"." + encoded(claims)
    command = ["openssl", "dgst", "-sha256", "-sign", KEY]
    signature = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True).stdout
    return (text + b"." + encoded(signature)).decode()


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def give_token(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":", 2)
            actions = [one for one in actions.split(",") if one == "pull" or self.headers.get("Authorization")]
            access.append({"type": kind, "name": name, "actions": actions})
        audience = query.get("service", [""])[0]
        body = json.dumps({"token": token(audience, access), "expires_in": 300}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def hand_on(self):
        if self.path.startswith("/service/token"):
            return self.give_token()
        behind = http.client.HTTPConnection("127.0.0.1", BEHIND)
        behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            behind.putheader(name, value)
        behind.endheaders()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            size = 1
            while size:
                line = self.rfile.readline()
                size = int(line.split(b";")[0], 16)
                behind.send(line + self.rfile.read(size + 2))
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                data = self.rfile.read(min(left, 1 << 20))
                behind.send(data)
                left -= len(data)
        answer = behind.getresponse()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            while data := answer.read(1 << 20):
                self.wfile.write(data)
        behind.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = hand_on


ThreadingHTTPServer(("127.0.0.1", PORT), Front).serve_forever()
