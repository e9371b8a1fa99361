//! What only SFTP can do wrong: host keys, logins, and connections that break.

use std::fs;
use std::sync::Arc;

use alluvial::sql::SessionContextExt;
use futures::StreamExt;
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::place::{Kind, Place, path_text};
use super::proxy::CuttingProxy;
use super::reader::{Reader, changes};
use super::server::{Server, Started};
use super::{Check, Special, cases};

pub(super) const SPECIALS: &[Special] = &[
    with_key("host-key-unknown", |place| {
        Box::pin(host_key_unknown(place))
    }),
    with_key("host-key-changed", |place| {
        Box::pin(host_key_changed(place))
    }),
    with_key("wrong-key", |place| Box::pin(wrong_key(place))),
    with_key("passphrase", |place| Box::pin(passphrase(place))),
    with_key("read-only", |place| Box::pin(read_only(place))),
    with_key("cut-connections", |place| Box::pin(cut_connections(place))),
    with_key("restarted", |place| Box::pin(restarted(place))),
    with_password("wrong-password", |place| Box::pin(wrong_password(place))),
    with_password("password-in-url", |place| Box::pin(password_in_url(place))),
];

const fn with_key(name: &'static str, check: Check) -> Special {
    Special {
        kind: Kind::Sftp,
        name,
        check,
    }
}

const fn with_password(name: &'static str, check: Check) -> Special {
    Special {
        kind: Kind::SftpPassword,
        name,
        check,
    }
}

const FILE: &str = "id,name\n1,one\n";
const CHANGE: &str = r#"[1,"one","upsert",1]"#;

/// What `serve.py` tells of the server.
fn known<'a>(place: &'a Place, name: &str) -> Result<&'a str, Failed> {
    let value = place.more.get(name);
    value
        .map(String::as_str)
        .ok_or_else(|| format!("serve.py tells no {name:?}").into())
}

/// A file of known hosts in a folder that the caller keeps.
fn known_hosts(folder: &TempDir, content: &str) -> Result<String, Failed> {
    let file = folder.path().join("known_hosts");
    fs::write(&file, content)?;
    path_text(&file)
}

/// Nothing is sent to a server that nobody vouches for, unless the user says so.
async fn host_key_unknown(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let folder = TempDir::new()?;
    let hosts = known_hosts(&folder, "")?;
    let place = place.with_option("known_hosts", &hosts);
    let scan = format!("ssh-keyscan -p {} 127.0.0.1", known(&place, "port")?);
    let expected = ["is not known", known(&place, "fingerprint")?, &scan, &hosts];
    Reader::check_refused(&place, &expected).await?;
    let trusting = place.with_option("check_host_key", "false");
    Reader::open(&trusting)
        .await?
        .check_changes(0, &[CHANGE])
        .await
}

async fn host_key_changed(place: Place) -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let other = fs::read_to_string(format!("{}.pub", known(&place, "stranger")?))?;
    let hosts = format!("[127.0.0.1]:{} {other}", known(&place, "port")?);
    let place = place.with_option("known_hosts", &known_hosts(&folder, &hosts)?);
    let expected = ["HAS CHANGED", "attack", known(&place, "fingerprint")?];
    Reader::check_refused(&place, &expected).await
}

async fn wrong_key(place: Place) -> Result<(), Failed> {
    let stranger = known(&place, "stranger")?.to_owned();
    let place = place.with_option("private_key", &stranger);
    Reader::check_refused(&place, &["did not let the user", &stranger]).await
}

async fn passphrase(place: Place) -> Result<(), Failed> {
    let key = known(&place, "encrypted")?;
    let encrypted = place.with_option("private_key", key);
    Reader::check_refused(&encrypted, &["is encrypted", "sftp_passphrase"]).await?;
    let mut wrong = encrypted.with_option("passphrase", "another-passphrase");
    wrong.secrets.push("another-passphrase".to_owned());
    Reader::check_refused(&wrong, &["sftp_passphrase"]).await?;
    let right = encrypted.with_option("passphrase", "passphrase-of-a-key");
    cases::secrets(right).await
}

/// Who may only read keeps the ledger elsewhere, or reads what somebody else has numbered.
async fn read_only(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let guest = place.with_option("private_key", known(&place, "reader")?);
    let expected = ["may not write", "ledger '"];
    Reader::check_refused(&guest, &expected).await?;
    let with_ledger = Reader::open(&guest.with_ledger()?).await?;
    with_ledger.check_changes(0, &[CHANGE]).await?;
    let owner = Reader::open(&place).await?;
    owner.check_changes(0, &[CHANGE]).await?;
    let reader = Reader::open(&guest).await?;
    reader.check_changes(0, &[CHANGE]).await?;
    place.put("2.csv", FILE).await?;
    reader.check_error(&changes(1), &expected).await
}

const ROWS: usize = 60_000;
/// Counts what [`large_file`] has, each row by its number.
const COUNT: &str =
    "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT id) AS u FROM table_changes('landed', 0)";

/// Some six megabytes.
fn large_file() -> String {
    let filler = "x".repeat(90);
    let rows: Vec<String> = (1..=ROWS)
        .map(|id| format!("{id},{filler}{id}\n"))
        .collect();
    format!("id,name\n{}", rows.concat())
}

fn counted() -> String {
    format!("[{ROWS},{},{ROWS}]", ROWS * (ROWS + 1) / 2)
}

/// A read goes on where the connection broke: no row is lost, none comes twice.
async fn cut_connections(place: Place) -> Result<(), Failed> {
    const CUT_BYTES: u64 = 1_000_000;
    place.put("1.csv", large_file()).await?;
    let port = known(&place, "port")?;
    let proxy = CuttingProxy::start(port.parse()?, CUT_BYTES)?;
    let folder = TempDir::new()?;
    let host_key = fs::read_to_string(known(&place, "host.pub")?)?;
    let hosts = format!("[127.0.0.1]:{} {host_key}", proxy.port());
    let cut = place
        .with_option("known_hosts", &known_hosts(&folder, &hosts)?)
        .with_url(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let reader = Reader::open(&cut).await?;
    reader.check(COUNT, &[&counted()]).await?;
    reader.check(COUNT, &[&counted()]).await?;
    match proxy.cuts() {
        0..6 => Err(format!("only {} connections were cut", proxy.cuts()).into()),
        _ => Ok(()),
    }
}

/// A server that is started anew costs a session nothing, between reads and in the middle of one.
async fn restarted(_: Place) -> Result<(), Failed> {
    let Started::Ready(server) = Server::start("sftp")? else {
        return Err("the server that ran a moment ago is not there".into());
    };
    let server = Arc::new(server);
    let place = Place::on(Kind::Sftp, server.about())?;
    place.put("1.csv", large_file()).await?;
    let reader = Reader::open(&place).await?;
    reader.check(COUNT, &[&counted()]).await?;
    restart(&server).await?;
    reader.check(COUNT, &[&counted()]).await?;
    let frame = reader
        .session
        .alluvial_sql("SELECT id FROM table_changes('landed', 0)")
        .await?;
    let mut stream = frame.execute_stream().await?;
    let mut rows = 0;
    let mut is_restarted = false;
    while let Some(batch) = stream.next().await.transpose()? {
        rows += batch.num_rows();
        if !is_restarted {
            restart(&server).await?;
            is_restarted = true;
        }
    }
    if rows != ROWS {
        return Err(format!("{rows} rows came, not {ROWS}").into());
    }
    place.put("2.csv", "id,name\n0,last\n").await?;
    restart(&server).await?;
    reader.check_changes(1, &[r#"[0,"last","upsert",2]"#]).await
}

async fn restart(server: &Arc<Server>) -> Result<(), Failed> {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || server.restart()).await?
}

async fn wrong_password(place: Place) -> Result<(), Failed> {
    let mut place = place.with_option("password", "wrong-password-51c0");
    place.secrets.push("wrong-password-51c0".to_owned());
    Reader::check_refused(&place, &["did not let the user \"feed\"", "the password"]).await
}

/// As in the URLs that partners send by mail.
async fn password_in_url(place: Place) -> Result<(), Failed> {
    let password = place
        .options
        .get("password")
        .ok_or("there is no password")?;
    let login = format!("sftp://feed:{password}@");
    let place = place
        .without_option("user")
        .without_option("password")
        .with_url("sftp://", &login);
    cases::secrets(place).await
}
