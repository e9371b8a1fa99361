//! What only Azure can do wrong: tokens that permit too little, have expired or have been changed.

use libtest_mimic::Failed;

use super::place::{Kind, Place};
use super::reader::{Reader, changes};
use super::{Check, Special};

pub(super) const SPECIALS: &[Special] = &[
    special("no-container", |place| Box::pin(no_container(place))),
    special("wrong-key", |place| Box::pin(wrong_key(place))),
    special("token-may-not-list", |place| {
        Box::pin(token_may_not_list(place))
    }),
    special("token-expired", |place| Box::pin(token_expired(place))),
    special("token-changed", |place| Box::pin(token_changed(place))),
    special("token-may-not-write", |place| {
        Box::pin(token_may_not_write(place))
    }),
    special("token-as-option", |place| Box::pin(token_as_option(place))),
];

const fn special(name: &'static str, check: Check) -> Special {
    Special {
        kind: Kind::Azure,
        name,
        check,
    }
}

const FILE: &str = "id,name\n1,one\n";
const CHANGE: &str = r#"[1,"one","upsert",1]"#;

async fn no_container(place: Place) -> Result<(), Failed> {
    let place = place.with_url("az://drop/", "az://no-such-container/");
    Reader::check_refused(
        &place,
        &["there is no such container", "az://no-such-container/"],
    )
    .await
}

async fn wrong_key(place: Place) -> Result<(), Failed> {
    // as long as a real one
    let key =
        "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktd3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktd3JuZw==";
    let mut place = place.with_option("azure_storage_account_key", key);
    place.secrets.push(key.to_owned());
    Reader::check_refused(&place, &["the credentials were refused", "account_key"]).await
}

async fn token_may_not_list(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let place = place.with_token("read")?;
    let expected = ["the SAS token may not list (sp=r)", "sp=rl"];
    Reader::check_refused(&place, &expected).await?;
    Reader::check_refused(&place.with_ledger()?, &expected).await
}

async fn token_expired(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let place = place.with_token("expired")?;
    let expected = ["the SAS token expired at 2", "ask for a new one"];
    Reader::check_refused(&place, &expected).await?;
    Reader::check_refused(&place.with_ledger()?, &expected).await
}

/// It says that it may list, but that is not what was signed.
async fn token_changed(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let place = place.with_token("tampered")?.with_ledger()?;
    Reader::check_refused(&place, &["the SAS token was refused"]).await
}

/// A token that permits reading and listing reads what somebody else has numbered, and with a ledger of its own everything.
async fn token_may_not_write(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let guest = place.with_token("read_and_list")?;
    let expected = ["the SAS token may not write (sp=rl)", "ledger '"];
    Reader::check_refused(&guest, &expected).await?;
    let owner = Reader::open(&place).await?;
    owner.check_changes(0, &[CHANGE]).await?;
    let reader = Reader::open(&guest).await?;
    reader.check_changes(0, &[CHANGE]).await?;
    place.put("2.csv", "id,name\n2,two\n").await?;
    reader.check_error(&changes(1), &expected).await?;
    let second = r#"[2,"two","upsert",2]"#;
    let with_ledger = Reader::open(&guest.with_ledger()?).await?;
    with_ledger.check_changes(0, &[CHANGE, second]).await?;
    owner.check_changes(1, &[second]).await?;
    reader.check_changes(1, &[second]).await
}

/// The token stands in OPTIONS, with or without a question mark, and the URL names the container only.
async fn token_as_option(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FILE).await?;
    let token = place.more.get("read_and_list").ok_or("there is no token")?;
    for token in [token.clone(), format!("?{token}")] {
        let place = place
            .without_option("azure_storage_account_key")
            .with_option("sas_token", &token)
            .with_ledger()?;
        let reader = Reader::open(&place).await?;
        reader.check_changes(0, &[CHANGE]).await?;
    }
    Ok(())
}
