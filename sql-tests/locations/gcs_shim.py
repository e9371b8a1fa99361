"""What fake-gcs-server lacks of Google's XML interface, by means of its JSON interface; all else passes through.

    gcs_shim.py <port> <port of fake-gcs-server>

- writing: PUT with `x-goog-if-generation-match`, copying, uploads in parts, DELETE
- listing after a name: `start-after`, which fake-gcs-server ignores
- listing a bucket that is not there: 404, where fake-gcs-server answers 500, which clients try again
"""

import html
import http.client
import itertools
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit

BEHIND = ("127.0.0.1", int(sys.argv[2]))
HOST = f"{BEHIND[0]}:{BEHIND[1]}"
BOUNDARY = "=-=boundary-of-a-part-7f3a=-="
NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist.</Message></Error>"
CONNECTION_HEADERS = {"connection", "transfer-encoding", "content-length", "date"}

uploads = {}
upload_numbers = itertools.count(1)
local = threading.local()


def call(method, path, body=None, headers=None):
    """Asks fake-gcs-server, on a connection that a thread keeps; a kept one may have been closed, so there are two tries."""
    for _ in range(2):
        connection = getattr(local, "connection", None) or http.client.HTTPConnection(*BEHIND)
        local.connection = connection
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except (http.client.HTTPException, OSError):
            connection.close()
            local.connection = None
    raise OSError("fake-gcs-server does not answer")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # an answer is several small writes
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        bucket, _, key = url.path.lstrip("/").partition("/")
        if bucket in ("storage", "upload", "download", "_internal", "batch"):
            return self.pass_through(body)
        self.bucket, self.key = bucket, unquote(key)
        if "uploads" in query or "uploadId" in query:
            return self.upload_in_parts(query, body)
        if self.command == "DELETE" and key:
            return self.delete()
        if self.command == "PUT" and key:
            return self.copy() if self.headers.get("x-goog-copy-source") else self.put(body)
        if self.command == "GET" and not key and query.get("start-after"):
            return self.list_after(query["start-after"])
        return self.pass_through(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_request

    def put(self, body):
        stored = self.store(body)
        if stored:
            self.answer(200, b"", headers_of(stored))

    def store(self, body):
        """Writes the object; where that is refused, answers so and returns nothing."""
        path = f"/upload/storage/v1/b/{self.bucket}/o?uploadType=multipart"
        generation = self.headers.get("x-goog-if-generation-match")
        if generation is not None:
            path += f"&ifGenerationMatch={generation}"
        content_type = self.headers.get("content-type") or "application/octet-stream"
        about = json.dumps({"name": self.key, "contentType": content_type})
        head = (
            f"--{BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n"
            f"--{BOUNDARY}\r\nContent-Type: {content_type}\r\n\r\n"
        )
        content = head.encode() + body + f"\r\n--{BOUNDARY}--".encode()
        headers = {"Content-Type": f'multipart/related; boundary="{BOUNDARY}"'}
        status, _, answer = call("POST", path, content, headers)
        if status == 200:
            return json.loads(answer)
        self.answer(status, answer)
        return None

    def upload_in_parts(self, query, body):
        number = query.get("uploadId")
        if number is None:
            number = str(next(upload_numbers))
            uploads[number] = {}
            started = f"<Bucket>{self.bucket}</Bucket><Key>{html.escape(self.key)}</Key><UploadId>{number}</UploadId>"
            return self.answer_xml("InitiateMultipartUploadResult", started)
        if self.command == "PUT":
            uploads[number][int(query["partNumber"])] = body
            return self.answer(200, b"", {"ETag": f'"{query["partNumber"]}"'})
        parts = uploads.pop(number, {})
        if self.command == "DELETE":
            return self.answer(204)
        stored = self.store(b"".join(parts[part] for part in sorted(parts)))
        if stored:
            tag = f'<ETag>"{stored["etag"]}"</ETag>'
            self.answer_xml("CompleteMultipartUploadResult", tag, headers_of(stored))

    def delete(self):
        status, _, answer = call("DELETE", self.object_path(self.bucket, self.key))
        self.answer(*((204,) if status < 300 else (status, answer)))

    def copy(self):
        bucket, _, key = unquote(self.headers["x-goog-copy-source"]).lstrip("/").partition("/")
        target = f"/rewriteTo/b/{self.bucket}/o/{quote(self.key, safe='')}"
        generation = self.headers.get("x-goog-if-generation-match")
        condition = "" if generation is None else f"?ifGenerationMatch={generation}"
        headers = {"Content-Type": "application/json"}
        path = self.object_path(bucket, key) + target + condition
        status, _, answer = call("POST", path, b"{}", headers)
        self.answer(status, answer)

    @staticmethod
    def object_path(bucket, key):
        return f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}"

    def list_after(self, name):
        status, _, answer = call("GET", self.path, headers={"Host": HOST})
        if status == 500 and b"no bucket named" in answer:
            return self.answer(404, NO_BUCKET, {"Content-Type": "application/xml"})
        entry = r"<(Contents|CommonPrefixes)><(?:Key|Prefix)>(.*?)</.*?</\1>"
        kept = re.sub(entry, lambda found: found[0] if html.unescape(found[2]) > name else "", answer.decode())
        self.answer(status, kept.encode(), {"Content-Type": "application/xml"})

    def pass_through(self, body):
        dropped = {"connection", "accept-encoding", "host"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        headers["Host"] = HOST
        status, answered, content = call(self.command, self.path, body, headers)
        if status == 500 and b"no bucket named" in content:
            return self.answer(404, NO_BUCKET, {"Content-Type": "application/xml"})
        length = next((value for name, value in answered if name.lower() == "content-length"), None)
        kept = {name: value for name, value in answered if name.lower() not in CONNECTION_HEADERS}
        self.answer(status, content, kept, length if self.command == "HEAD" else None)

    def answer_xml(self, root, content, headers=None):
        headers = {"Content-Type": "application/xml", **(headers or {})}
        self.answer(200, f"<{root}>{content}</{root}>".encode(), headers)

    def answer(self, status, body=b"", headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def headers_of(stored):
    return {"ETag": f'"{stored["etag"]}"', "x-goog-generation": stored["generation"]}


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
