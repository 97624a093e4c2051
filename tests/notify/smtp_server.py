"""A mail server for tests: aiosmtpd on loopback.

Takes a JSON object from the variable `ASKED`, which no list of processes shows: `port` (0: any), `tls` ("starttls", "implicit", "none"), `cert` and `key` (PEM files), `user` and
`password` (without them nobody logs in), `hold` (so many messages are taken and never answered).

Prints JSON, one object a line: first where it listens, then each message as Python's own email parser reads it.
"""

import asyncio
import email
import email.policy
import json
import os
import ssl

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def tell(what):
    print(json.dumps(what), flush=True)


class Handler:
    def __init__(self, hold):
        self.hold = hold

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address.startswith("nobody@"):
            return "550 5.1.1 there is no such person"
        if address.startswith("busy@"):
            return "450 4.2.1 the mailbox is busy"
        if address.startswith("slow@"):
            await asyncio.sleep(3600)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        walked = list(message.walk())
        tell(
            {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "headers": [[name.lower(), str(value)] for name, value in message.items()],
                "addresses": [str(address) for address in message["to"].addresses],
                "structure": [part.get_content_type() for part in walked],
                "parts": {part.get_content_type(): part.get_content() for part in walked if not part.is_multipart()},
                "defects": [str(defect) for part in walked for defect in part.defects],
                "longest_line": max(len(line) for line in envelope.original_content.splitlines()),
                "is_ascii": envelope.original_content.isascii(),
                "is_encrypted": server.transport.get_extra_info("sslcontext") is not None,
                "is_logged_in": bool(session.authenticated),
            }
        )
        if self.hold > 0:
            self.hold -= 1
            await asyncio.sleep(3600)
        return "250 OK"


async def main(asked):
    context = None
    if asked["tls"] != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(asked["cert"], asked["key"])
    is_starttls = asked["tls"] == "starttls"
    handler = Handler(asked.get("hold", 0))

    def authenticator(server, session, envelope, mechanism, data):
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (
            asked["user"].encode(),
            asked["password"].encode(),
        )
        return AuthResult(success=good, handled=False)

    has_users = "user" in asked

    def connection():
        return SMTP(
            handler,
            hostname="mail.test",
            require_starttls=is_starttls,
            tls_context=context if is_starttls else None,
            authenticator=authenticator if has_users else None,
            auth_required=has_users,
            auth_require_tls=is_starttls,
        )

    server = await asyncio.get_running_loop().create_server(
        connection, "127.0.0.1", asked.get("port", 0), ssl=context if asked["tls"] == "implicit" else None
    )
    tell({"port": server.sockets[0].getsockname()[1]})
    await server.serve_forever()


asyncio.run(main(json.loads(os.environ["ASKED"])))
