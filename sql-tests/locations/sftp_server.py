"""An SFTP server that lets one user in by a password.

    sftp_server.py <port> <folder> <host key> <user> <password>

The user sees the folder as the root. The host key is made if it is not there, with its public half beside it as `.pub`.
"""

import asyncio
import os
import sys

import asyncssh

PORT, FOLDER, HOST_KEY, USER, PASSWORD = sys.argv[1:]


class Login(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return (username, password) == (USER, PASSWORD)


async def main():
    if not os.path.exists(HOST_KEY):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(HOST_KEY)
        key.write_public_key(HOST_KEY + ".pub")
    await asyncssh.listen(
        "127.0.0.1",
        int(PORT),
        server_host_keys=[HOST_KEY],
        server_factory=Login,
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=FOLDER.encode()),
    )
    await asyncio.Event().wait()


asyncio.run(main())
