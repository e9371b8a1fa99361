//! From nothing to a session: connecting, checking the host key, logging in, opening SFTP and asking what the server can do.

use std::io::ErrorKind;
use std::sync::Arc;

use russh::client::{self, Handle, Msg};
use russh::{Channel, ChannelMsg};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::{Config as SftpConfig, RawSftpSession};
use russh_sftp::extensions;

use super::failure::Failure;
use super::host_key::HostKeyCheck;
use super::login::log_in;
use super::options::SftpOptions;
use crate::source::files::io_runtime::io_runtime;

/// The name of the request that renames over a file.
pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";
/// What a server has to grant in one read or write; more only where it says so.
const SAFE_LENGTH: u32 = 32 * 1024;
const MOST_LENGTH: u64 = 255 * 1024;
/// Packets beyond this are taken for garbage.
const MOST_PACKET: u32 = 1024 * 1024;
/// So much may be under way to us; it bounds the speed over long distances.
const WINDOW: u32 = 4 * 1024 * 1024;

/// An SSH connection with an SFTP session in it.
pub(super) struct Session {
    /// Keeps the connection open.
    pub(super) ssh: Handle<HostKeyCheck>,
    /// Takes requests.
    pub(super) sftp: RawSftpSession,
    /// What may be asked.
    pub(super) abilities: Abilities,
}

/// What a server can do.
pub(super) struct Abilities {
    /// Rename over a file.
    pub(super) posix_rename: bool,
    /// Make hard links.
    pub(super) hard_link: bool,
    /// Bring a file to the disk.
    pub(super) sync: bool,
    /// How much one read brings.
    pub(super) read_bytes: u32,
    /// How much one write takes.
    pub(super) write_bytes: u32,
}

impl Session {
    /// Opens a session with the server that `options` name, on the runtime where connections live.
    pub(super) async fn open(options: &SftpOptions) -> Result<Self, Failure> {
        let runtime = io_runtime().map_err(|error| Failure::fatal(error.to_string()))?;
        let options = options.clone();
        let opening = runtime.spawn(async move { Self::open_here(&options).await });
        opening
            .await
            .map_err(|error| Failure::fatal(error.to_string()))?
    }

    async fn open_here(options: &SftpOptions) -> Result<Self, Failure> {
        let address = options.address();
        let check = HostKeyCheck::try_new(options)?;
        let config = Arc::new(ssh_config(options, &check));
        let target = (options.host.as_str(), options.port);
        let mut ssh = Box::pin(client::connect(config, target, check))
            .await
            .map_err(|error| error.into_failure(&address))?;
        log_in(&mut ssh, options).await?;
        let channel = open_subsystem(&ssh, &address).await?;
        let config = SftpConfig {
            max_packet_len: MOST_PACKET,
            request_timeout_secs: options.timeout.as_secs().max(1),
            ..SftpConfig::default()
        };
        let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let abilities = abilities_of(&sftp)
            .await
            .map_err(|error| Failure::of_request(error, &address))?;
        Ok(Self {
            ssh,
            sftp,
            abilities,
        })
    }
}

fn ssh_config(options: &SftpOptions, check: &HostKeyCheck) -> client::Config {
    client::Config {
        window_size: WINDOW,
        keepalive_interval: Some(options.keep_alive),
        nodelay: true,
        preferred: check.preferred(),
        ..client::Config::default()
    }
}

async fn open_subsystem(
    ssh: &Handle<HostKeyCheck>,
    address: &str,
) -> Result<Channel<Msg>, Failure> {
    let lost = |error| Failure::of_ssh(error, address);
    let mut channel = ssh.channel_open_session().await.map_err(lost)?;
    channel
        .request_subsystem(true, "sftp")
        .await
        .map_err(lost)?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(channel),
            Some(ChannelMsg::Failure) => {
                return Err(Failure::fatal(format!(
                    "{address}: the server has no SFTP (it refused the subsystem sftp)"
                )));
            }
            Some(ChannelMsg::Close | ChannelMsg::Eof) | None => {
                return Err(Failure::lost(
                    ErrorKind::ConnectionReset,
                    address,
                    "the server closed the channel before SFTP began",
                ));
            }
            Some(_) => {}
        }
    }
}

async fn abilities_of(sftp: &RawSftpSession) -> Result<Abilities, SftpError> {
    let version = sftp.init().await?;
    let has = |name: &str| version.extensions.contains_key(name);
    let (read_bytes, write_bytes) = if has(extensions::LIMITS) {
        let limits = sftp.limits().await?;
        (granted(limits.max_read_len), granted(limits.max_write_len))
    } else {
        (SAFE_LENGTH, SAFE_LENGTH)
    };
    Ok(Abilities {
        posix_rename: has(POSIX_RENAME),
        hard_link: has(extensions::HARDLINK),
        sync: has(extensions::FSYNC),
        read_bytes,
        write_bytes,
    })
}

/// The length to use where the server grants `limit`, of which 0 means none said.
fn granted(limit: u64) -> u32 {
    if limit == 0 {
        return SAFE_LENGTH;
    }
    u32::try_from(limit.min(MOST_LENGTH)).unwrap_or(SAFE_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded() {
        let check = |limit, expected| assert_eq!(granted(limit), expected);
        check(0, 32 * 1024);
        check(1000, 1000);
        check(261_120, 261_120);
        check(u64::MAX, 261_120);
    }
}
