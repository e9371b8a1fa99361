//! Whether the server is who it says it is: its key has to be in the file of known hosts.
//!
//! Plain and hashed names are understood, with and without a port; patterns and certificates are not. Where keys are recorded for a host,
//! keys of their kinds are asked for first, as OpenSSH does, and a key of any other kind counts as changed.

use std::path::{Path, PathBuf};

use russh::client::Handler;
use russh::keys::known_hosts::known_host_keys_path;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Error as SshError, Preferred};

use super::failure::Failure;
use super::options::SftpOptions;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The network or the protocol failed.
    Ssh(SshError),
    /// The server did not prove its identity; the text says what to do.
    HostKey(String),
}

impl From<SshError> for ConnectError {
    fn from(error: SshError) -> Self {
        Self::Ssh(error)
    }
}

impl ConnectError {
    /// What it means to a request.
    pub(super) fn into_failure(self, address: &str) -> Failure {
        match self {
            Self::Ssh(error) => Failure::of_ssh(error, address),
            Self::HostKey(text) => Failure::fatal(text),
        }
    }
}

/// Checks the key of one host.
pub(super) struct HostKeyCheck {
    host: String,
    port: u16,
    known_hosts: PathBuf,
    /// The keys recorded for the host; `None` where any key will do.
    recorded: Option<Vec<PublicKey>>,
}

impl HostKeyCheck {
    /// The check that `options` ask for.
    pub(super) fn try_new(options: &SftpOptions) -> Result<Self, Failure> {
        let known_hosts = options.known_hosts.clone().unwrap_or_default();
        let recorded = if options.check_host_key {
            Some(recorded_keys(options, &known_hosts)?)
        } else {
            None
        };
        Ok(Self {
            host: options.host.clone(),
            port: options.port,
            known_hosts,
            recorded,
        })
    }

    /// The kinds of keys to ask the server for, those on record first.
    pub(super) fn preferred(&self) -> Preferred {
        let mut kinds = Preferred::DEFAULT.key.to_vec();
        let recorded = self.recorded.as_deref().unwrap_or_default();
        kinds.sort_by_key(|kind| {
            !recorded
                .iter()
                .any(|key| is_same_kind(&key.algorithm(), kind))
        });
        Preferred {
            key: kinds.into(),
            ..Preferred::DEFAULT
        }
    }

    fn check(&self, key: &PublicKey) -> Result<(), String> {
        let Some(recorded) = &self.recorded else {
            return Ok(());
        };
        if recorded
            .iter()
            .any(|known| known.key_data() == key.key_data())
        {
            Ok(())
        } else if recorded.is_empty() {
            Err(self.unknown(key))
        } else {
            Err(self.changed(key, recorded))
        }
    }

    fn unknown(&self, key: &PublicKey) -> String {
        let file = self.known_hosts.display();
        format!(
            "the host key of {}:{} is not known: it is {}, and {file} has none for this host; compare the fingerprint with the one that the \
             server's operator names, then run: {}",
            self.host,
            self.port,
            fingerprint(key),
            self.keyscan()
        )
    }

    fn changed(&self, key: &PublicKey, recorded: &[PublicKey]) -> String {
        let file = self.known_hosts.display();
        let known: Vec<String> = recorded.iter().map(fingerprint).collect();
        let name = if self.port == 22 {
            self.host.clone()
        } else {
            format!("[{}]:{}", self.host, self.port)
        };
        format!(
            "THE HOST KEY OF {}:{} HAS CHANGED, this may be an attack: the server shows {}, but {file} records {}; nothing was sent. Only if the \
             server's operator confirms the new key, run: ssh-keygen -R '{name}' -f {file} && {}",
            self.host,
            self.port,
            fingerprint(key),
            known.join(" and "),
            self.keyscan()
        )
    }

    fn keyscan(&self) -> String {
        format!(
            "ssh-keyscan -p {} {} >> {}",
            self.port,
            self.host,
            self.known_hosts.display()
        )
    }
}

impl Handler for HostKeyCheck {
    type Error = ConnectError;

    async fn check_server_key(
        &mut self,
        server_key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        match server_key {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.check(key).map_err(ConnectError::HostKey)?;
                Ok(true)
            }
            PublicKeyOrCertificate::Certificate(_) => Err(ConnectError::HostKey(format!(
                "{}:{} shows a host certificate, which cannot be checked; let it show a plain host key",
                self.host, self.port
            ))),
        }
    }
}

fn recorded_keys(options: &SftpOptions, known_hosts: &Path) -> Result<Vec<PublicKey>, Failure> {
    let keys = known_host_keys_path(&options.host, options.port, known_hosts).map_err(|error| {
        Failure::fatal(format!(
            "the host keys of {} in {} cannot be read: {error}; correct the file, or write it anew with ssh-keyscan",
            options.address(),
            known_hosts.display()
        ))
    })?;
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// RSA keys are of one kind whatever the hash of their signatures.
fn is_same_kind(left: &Algorithm, right: &Algorithm) -> bool {
    left == right
        || matches!(
            (left, right),
            (Algorithm::Rsa { .. }, Algorithm::Rsa { .. })
        )
}

fn fingerprint(key: &PublicKey) -> String {
    format!(
        "{} {}",
        key.algorithm().as_str(),
        key.fingerprint(HashAlg::Sha256)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use russh::keys::parse_public_key_base64;
    use url::Url;

    use super::*;

    const FIRST: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const SECOND: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn check_of(host: &str, known: &str, more: &[(&str, &str)]) -> HostKeyCheck {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        fs::write(&file, known).unwrap();
        let mut options: HashMap<String, String> = more
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        options.insert(
            "known_hosts".to_owned(),
            file.to_string_lossy().into_owned(),
        );
        let url = Url::parse(&format!("sftp://me@{host}/")).unwrap();
        let options = SftpOptions::try_new(&url, &options).unwrap();
        HostKeyCheck::try_new(&options).unwrap()
    }

    fn check(host: &str, known: &str, shown: &str, expected: Result<(), &str>) {
        let key = parse_public_key_base64(shown).unwrap();
        let result = check_of(host, known, &[]).check(&key);
        match (result, expected) {
            (Ok(()), Ok(())) => {}
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            (result, _) => panic!("{host}: {result:?}"),
        }
    }

    #[test]
    fn known_unknown_and_changed() {
        let known = format!("h ssh-ed25519 {FIRST}\n[h]:2222 ssh-ed25519 {SECOND}\n");
        check("h", &known, FIRST, Ok(()));
        check("H", &known, FIRST, Ok(()));
        check("h:2222", &known, SECOND, Ok(()));
        check("h", &known, SECOND, Err("may be an attack"));
        check("h:2222", &known, FIRST, Err("ssh-keygen -R '[h]:2222'"));
        check(
            "other:23",
            &known,
            FIRST,
            Err("ssh-keyscan -p 23 other >> "),
        );
        check("other", &known, FIRST, Err("ssh-ed25519 SHA256:"));
        check("h", "", FIRST, Err("is not known"));
        let both = format!("h ssh-ed25519 {FIRST}\nh ssh-ed25519 {SECOND}\n");
        check("h", &both, SECOND, Ok(()));
    }

    #[test]
    fn the_check_can_be_switched_off() {
        let key = parse_public_key_base64(FIRST).unwrap();
        let check = check_of("h", "", &[("check_host_key", "false")]);
        assert_eq!(check.check(&key), Ok(()));
    }

    #[test]
    fn kinds_on_record_are_asked_for_first() {
        let known = format!("h ssh-ed25519 {FIRST}\n");
        let kinds = check_of("h", &known, &[]).preferred().key;
        assert_eq!(kinds.first(), Some(&Algorithm::Ed25519));
        assert_eq!(kinds.len(), Preferred::DEFAULT.key.len());
    }
}
