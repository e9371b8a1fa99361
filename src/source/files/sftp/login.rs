//! Logging in: with a private key, with a password, or with both where the server wants both.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::Error;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{
    Algorithm, Error as KeyError, HashAlg, PrivateKey, PrivateKeyWithHashAlg, decode_secret_key,
};
use russh::{Error as SshError, MethodKind};

use super::failure::Failure;
use super::host_key::HostKeyCheck;
use super::options::SftpOptions;

/// The key files that are tried where neither a key nor a password is given, in the folder `.ssh`.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];
/// How many times a server may ask questions in one dialogue.
const MOST_QUESTIONS: usize = 4;

/// Logs in with what `options` have, or says what was tried.
pub(super) async fn log_in(
    ssh: &mut Handle<HostKeyCheck>,
    options: &SftpOptions,
) -> Result<(), Failure> {
    let address = options.address();
    let mut tried = Vec::new();
    for path in key_files(options) {
        let name = format!("the key {}", path.display());
        match load_key(&path, options.passphrase.as_deref()) {
            Ok(key) => {
                let accepted = with_key(ssh, &options.user, key).await;
                if accepted.map_err(|error| Failure::of_ssh(error, &address))? {
                    return Ok(());
                }
                tried.push(name);
            }
            Err(reason) if options.private_key.is_some() => {
                return Err(Failure::fatal(format!("{address}: {name} {reason}")));
            }
            Err(reason) => tried.push(format!("{name} (not used, it {reason})")),
        }
    }
    if let Some(password) = &options.password {
        let accepted = with_password(ssh, &options.user, password).await;
        if accepted.map_err(|error| Failure::of_ssh(error, &address))? {
            return Ok(());
        }
        tried.push("the password".to_owned());
    }
    Err(refused(options, &tried, ssh.is_closed()))
}

fn key_files(options: &SftpOptions) -> Vec<PathBuf> {
    match (&options.private_key, &options.password) {
        (Some(path), _) => vec![path.clone()],
        (None, Some(_)) => Vec::new(),
        (None, None) => {
            let folder = PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".ssh");
            USUAL_KEYS
                .iter()
                .map(|name| folder.join(name))
                .filter(|path| path.is_file())
                .collect()
        }
    }
}

/// The private key in a file, or why there is none, as the end of a sentence about the file.
fn load_key(path: &Path, passphrase: Option<&str>) -> Result<PrivateKey, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    // A passphrase may be set although this key does not need one.
    let plain = decode_secret_key(&text, None);
    match (plain, passphrase) {
        (Ok(key), _) => Ok(key),
        (Err(_), Some(passphrase)) => decode_secret_key(&text, Some(passphrase))
            .map_err(|error| format!("cannot be decoded with the option sftp_passphrase: {error}")),
        (Err(error), None) if is_encrypted(&text, &error) => {
            Err("is encrypted; give its passphrase by the option sftp_passphrase".to_owned())
        }
        (Err(error), None) => Err(format!(
            "cannot be decoded: {error}; it has to be a private key in the format of OpenSSH or PEM"
        )),
    }
}

fn is_encrypted(text: &str, error: &KeyError) -> bool {
    matches!(error, KeyError::KeyIsEncrypted) || text.contains("ENCRYPTED")
}

async fn with_key(
    ssh: &mut Handle<HostKeyCheck>,
    user: &str,
    key: PrivateKey,
) -> Result<bool, SshError> {
    let key = Arc::new(key);
    for hash in hashes_for(ssh, &key).await? {
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&key), hash);
        if ssh.authenticate_publickey(user, key).await?.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The hashes to sign with: RSA keys need the one that the server wants, or guesses where it does not say.
async fn hashes_for(
    ssh: &Handle<HostKeyCheck>,
    key: &PrivateKey,
) -> Result<Vec<Option<HashAlg>>, SshError> {
    if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
        return Ok(vec![None]);
    }
    Ok(match ssh.best_supported_rsa_hash().await? {
        Some(hash) => vec![hash],
        None => vec![Some(HashAlg::Sha256), None],
    })
}

/// By the method for passwords, or in a dialogue where the server wants one.
async fn with_password(
    ssh: &mut Handle<HostKeyCheck>,
    user: &str,
    password: &str,
) -> Result<bool, SshError> {
    match ssh.authenticate_password(user, password).await? {
        AuthResult::Success => Ok(true),
        AuthResult::Failure {
            remaining_methods, ..
        } if remaining_methods.contains(&MethodKind::KeyboardInteractive) => {
            answer_questions(ssh, user, password).await
        }
        AuthResult::Failure { .. } => Ok(false),
    }
}

async fn answer_questions(
    ssh: &mut Handle<HostKeyCheck>,
    user: &str,
    password: &str,
) -> Result<bool, SshError> {
    let mut reply = ssh
        .authenticate_keyboard_interactive_start(user, None::<String>)
        .await?;
    for _ in 0..MOST_QUESTIONS {
        let prompts = match reply {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
        };
        // Only a question whose answer is not shown can be the one for the password.
        let answers = prompts
            .iter()
            .map(|prompt| {
                if prompt.echo {
                    String::new()
                } else {
                    password.to_owned()
                }
            })
            .collect();
        reply = ssh
            .authenticate_keyboard_interactive_respond(answers)
            .await?;
    }
    Ok(matches!(reply, KeyboardInteractiveAuthResponse::Success))
}

/// The error after the last method; a server that hung up may only have been restarted.
fn refused(options: &SftpOptions, tried: &[String], is_closed: bool) -> Failure {
    let address = options.address();
    let tried = if tried.is_empty() {
        "nothing could be tried: give the option sftp_password or sftp_private_key, or put a key into ~/.ssh".to_owned()
    } else {
        format!("tried {}", tried.join(", "))
    };
    let text = format!(
        "the server did not let the user {:?} in ({tried})",
        options.user
    );
    if is_closed {
        Failure::lost(
            ErrorKind::ConnectionAborted,
            &address,
            &format!("{text}, and it closed the connection"),
        )
    } else {
        Failure::Fatal(Error::Unauthenticated {
            path: format!("sftp://{address}"),
            source: text.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use url::Url;

    use super::*;

    #[test]
    fn refusals_name_who_and_what_but_no_secret() {
        let url = Url::parse("sftp://ann:hunter2@h:2222/").unwrap();
        let options = SftpOptions::try_new(&url, &HashMap::new()).unwrap();
        let check = |tried: &[&str], is_closed, expected: &str| {
            let tried: Vec<String> = tried.iter().map(|name| (*name).to_owned()).collect();
            let text = refused(&options, &tried, is_closed).at("/x").to_string();
            assert!(text.contains(expected), "{text}");
            assert!(
                text.contains("\"ann\"") && text.contains("h:2222"),
                "{text}"
            );
            assert!(!text.contains("hunter2"), "{text}");
        };
        check(&["the password"], false, "(tried the password)");
        check(&[], false, "give the option sftp_password");
        check(&["the password"], true, "closed the connection");
    }

    #[test]
    fn keys_that_cannot_be_used_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let check = |content: &str, passphrase, expected: &str| {
            fs::write(&path, content).unwrap();
            let text = load_key(&path, passphrase).unwrap_err();
            assert!(text.contains(expected), "{text}");
        };
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        check(encrypted, None, "by the option sftp_passphrase");
        check(encrypted, Some("x"), "with the option sftp_passphrase");
        check("no key", None, "format of OpenSSH or PEM");
        assert!(
            load_key(&folder.path().join("none"), None)
                .unwrap_err()
                .contains("cannot be read")
        );
    }
}
