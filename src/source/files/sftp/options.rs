//! How to reach an SFTP server, said by a URL, by options and by the environment, in this order of precedence: options, URL,
//! environment.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{Error, Result};

const DEFAULT_PORT: u16 = 22;
const DEFAULT_CONNECTIONS: u64 = 4;
const MOST_CONNECTIONS: u64 = 64;
const DEFAULT_TIMEOUT_SECONDS: u64 = 30;
const MOST_TIMEOUT_SECONDS: u64 = 24 * 60 * 60;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How to reach a server.
#[derive(Clone)]
pub(crate) struct SftpOptions {
    /// The name or the address, without the brackets of an IPv6 address.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// Who logs in.
    pub(crate) user: String,
    /// The password, tried after the keys.
    pub(crate) password: Option<String>,
    /// A private key file; without one and without a password the usual files of `~/.ssh` are tried.
    pub(crate) private_key: Option<PathBuf>,
    /// What decrypts the private key.
    pub(crate) passphrase: Option<String>,
    /// The file of known host keys.
    pub(crate) known_hosts: Option<PathBuf>,
    /// Whether the server has to prove its identity by a known key.
    pub(crate) check_host_key: bool,
    /// How many SSH connections there are at most.
    pub(crate) connections: usize,
    /// How long one request, or connecting, may take.
    pub(crate) timeout: Duration,
    /// After how long a silence the connection is checked.
    pub(crate) keep_alive: Duration,
}

impl SftpOptions {
    /// The option keys that it knows.
    pub(crate) const KEYS: &'static [&'static str] = &[
        "sftp_user",
        "user",
        "sftp_password",
        "password",
        "sftp_private_key",
        "private_key",
        "sftp_passphrase",
        "passphrase",
        "sftp_known_hosts",
        "known_hosts",
        "sftp_check_host_key",
        "check_host_key",
        "sftp_connections",
        "sftp_timeout",
    ];

    /// What `sftp://[user[:password]@]host[:port]/…`, the options of [`Self::KEYS`] and the environment say.
    pub(crate) fn try_new(url: &Url, options: &HashMap<String, String>) -> Result<Self> {
        Self::from_parts(url, options, &|name| env::var(name).ok())
    }

    /// The server as messages name it: `host:port`.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn from_parts(
        url: &Url,
        options: &HashMap<String, String>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let given = Given {
            options,
            environment,
        };
        let home = given.variable("HOME").map(PathBuf::from);
        let user = given
            .text("user", decoded(url.username(), "user name")?)
            .or_else(|| given.variable("USER"))
            .ok_or_else(|| {
                Error::invalid(
                    "an SFTP location needs a user: write sftp://user@host/…, or set the option sftp_user or the variable SFTP_USER",
                )
            })?;
        Ok(Self {
            host: host_of(url)?,
            port: url.port().unwrap_or(DEFAULT_PORT),
            user,
            password: given.text(
                "password",
                decoded(url.password().unwrap_or_default(), "password")?,
            ),
            private_key: given
                .text("private_key", None)
                .map(|path| key_path(&path, home.as_deref()))
                .transpose()?,
            passphrase: given.text("passphrase", None),
            known_hosts: given
                .text("known_hosts", None)
                .map(|path| expand(&path, home.as_deref()))
                .or_else(|| home.as_ref().map(|home| home.join(".ssh/known_hosts"))),
            check_host_key: given.switch("check_host_key")?,
            connections: given.number("sftp_connections", DEFAULT_CONNECTIONS, MOST_CONNECTIONS)?
                as usize,
            timeout: Duration::from_secs(given.number(
                "sftp_timeout",
                DEFAULT_TIMEOUT_SECONDS,
                MOST_TIMEOUT_SECONDS,
            )?),
            keep_alive: KEEP_ALIVE,
        })
    }
}

impl fmt::Debug for SftpOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "<hidden>");
        formatter
            .debug_struct("SftpOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &hidden(&self.password))
            .field("private_key", &self.private_key)
            .field("passphrase", &hidden(&self.passphrase))
            .field("known_hosts", &self.known_hosts)
            .field("check_host_key", &self.check_host_key)
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .field("keep_alive", &self.keep_alive)
            .finish()
    }
}

/// Where values come from besides the URL.
struct Given<'a> {
    options: &'a HashMap<String, String>,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

impl Given<'_> {
    /// The option `sftp_<name>` or `<name>`, else what the URL says, else the variable `SFTP_<NAME>`.
    fn text(&self, name: &str, of_url: Option<String>) -> Option<String> {
        self.option(name)
            .map(|(_, value)| value.to_owned())
            .or(of_url)
            .or_else(|| self.variable(&format!("SFTP_{}", name.to_ascii_uppercase())))
    }

    fn option(&self, name: &str) -> Option<(String, &str)> {
        [format!("sftp_{name}"), name.to_owned()]
            .into_iter()
            .find_map(|key| {
                let value = self.options.get(&key)?;
                Some((key, value.as_str()))
            })
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn switch(&self, name: &str) -> Result<bool> {
        let Some((key, value)) = self.option(name) else {
            return Ok(true);
        };
        match value.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Error::invalid(format!(
                "the option {key} is {value:?}; write 'true' or 'false'"
            ))),
        }
    }

    fn number(&self, key: &str, default: u64, most: u64) -> Result<u64> {
        let Some(value) = self.options.get(key) else {
            return Ok(default);
        };
        match value.trim().parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(Error::invalid(format!(
                "the option {key} is {value:?}; write a whole number from 1 to {most}"
            ))),
        }
    }
}

fn host_of(url: &Url) -> Result<String> {
    let host = url.host_str().unwrap_or_default();
    if url.scheme() != "sftp" || host.is_empty() {
        return Err(Error::invalid(format!(
            "an SFTP location is written sftp://user@host:port/folder/, not {}://{host}…",
            url.scheme()
        )));
    }
    // Files of known hosts hold names in lower case.
    Ok(host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase())
}

/// A part of a URL without its percent signs; `None` where it is empty.
fn decoded(part: &str, what: &str) -> Result<Option<String>> {
    let text = percent_decode_str(part).decode_utf8().map_err(|_| {
        Error::invalid(format!(
            "the {what} in the SFTP location is not UTF-8 once its percent signs are decoded; give it as an option"
        ))
    })?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

fn key_path(value: &str, home: Option<&Path>) -> Result<PathBuf> {
    if value.contains("-----BEGIN") || value.contains('\n') {
        return Err(Error::invalid(
            "the option private_key takes the path of a key file, not the key itself; write the key to a file that only you can read",
        ));
    }
    Ok(expand(value, home))
}

fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        url: &str,
        options: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Result<SftpOptions> {
        let url = Url::parse(url).unwrap();
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        SftpOptions::from_parts(&url, &options, &|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn check(url: &str, expected: (&str, u16, &str, Option<&str>)) {
        let options = parse(url, &[], &[("USER", "me")]).unwrap();
        let (host, port, user, password) = expected;
        assert_eq!(options.host, host, "{url}");
        assert_eq!(options.port, port, "{url}");
        assert_eq!(options.user, user, "{url}");
        assert_eq!(options.password.as_deref(), password, "{url}");
    }

    #[test]
    fn urls() {
        check("sftp://host/upload", ("host", 22, "me", None));
        check("sftp://HOST:2222/", ("host", 2222, "me", None));
        check("sftp://ann@host/", ("host", 22, "ann", None));
        check(
            "sftp://a%40b:p%3Aw%2F@h.org/",
            ("h.org", 22, "a@b", Some("p:w/")),
        );
        check("sftp://ann@[::1]:23/", ("::1", 23, "ann", None));
    }

    #[test]
    fn options_come_before_the_url_and_the_url_before_the_environment() {
        let variables = [
            ("SFTP_USER", "env"),
            ("SFTP_PASSWORD", "env-secret"),
            ("HOME", "/home/me"),
        ];
        let options = parse("sftp://h/", &[], &variables).unwrap();
        assert_eq!(options.user, "env");
        assert_eq!(options.password.as_deref(), Some("env-secret"));
        assert_eq!(
            options.known_hosts,
            Some(PathBuf::from("/home/me/.ssh/known_hosts"))
        );
        let options = parse("sftp://url@h/", &[], &variables).unwrap();
        assert_eq!(options.user, "url");
        let given = [
            ("user", "option"),
            ("sftp_private_key", "~/.ssh/drop"),
            ("sftp_connections", "2"),
            ("sftp_timeout", "5"),
            ("check_host_key", "False"),
        ];
        let options = parse("sftp://url@h/", &given, &variables).unwrap();
        assert_eq!(options.user, "option");
        assert_eq!(
            options.private_key,
            Some(PathBuf::from("/home/me/.ssh/drop"))
        );
        assert_eq!(options.connections, 2);
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert!(!options.check_host_key);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |url: &str, given: &[(&str, &str)], expected: &str| {
            let text = parse(url, given, &[]).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        };
        check("sftp://h/", &[], "sftp_user");
        check("ftp://me:hunter2@h/", &[], "sftp://user@host");
        check("sftp://me@h/", &[("sftp_connections", "0")], "from 1 to 64");
        check("sftp://me@h/", &[("sftp_timeout", "5s")], "\"5s\"");
        check(
            "sftp://me@h/",
            &[("sftp_check_host_key", "no")],
            "sftp_check_host_key",
        );
        check(
            "sftp://me@h/",
            &[("private_key", "-----BEGIN hunter2")],
            "path of a key file",
        );
        check(
            "sftp://me:%ffhunter2@h/",
            &[],
            "password in the SFTP location",
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let given = [("passphrase", "hunter3")];
        let options = parse("sftp://me:hunter2@h/", &given, &[]).unwrap();
        let text = format!("{options:?}");
        assert!(!text.contains("hunter"), "{text}");
        assert!(text.contains("<hidden>"), "{text}");
    }
}
