//! What a cloud store is set up with: the environment, and OPTIONS on top of it.

use std::collections::HashMap;
use std::str::FromStr;

use super::redact::Secrets;
use super::sas::SasToken;

/// The options that are credentials. Where OPTIONS have one, none is taken from the environment: a session token there does not
/// fit an access key here, and an account key there would go before a SAS token here.
const CREDENTIALS: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_web_identity_token_file",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_skip_signature",
    "azure_storage_account_key",
    "azure_storage_client_secret",
    "azure_storage_sas_key",
    "azure_storage_token",
    "azure_federated_token_file",
    "azure_use_azure_cli",
    "azure_skip_signature",
    "azure_fabric_session_token",
    "google_service_account",
    "google_service_account_key",
    "google_application_credentials",
    "google_skip_signature",
];

/// The options whose values are secret.
const SECRETS: &[&str] = &[
    "aws_secret_access_key",
    "aws_session_token",
    "aws_sse_customer_key_base64",
    "azure_storage_account_key",
    "azure_storage_client_secret",
    "azure_storage_sas_key",
    "azure_storage_token",
    "azure_fabric_session_token",
    "google_service_account_key",
    "sftp_password",
    "sftp_passphrase",
];

/// The settings of one store, in the order in which they are to be made.
pub(super) struct Settings<K> {
    pub(super) values: Vec<(K, String)>,
    /// Whether OPTIONS have credentials, so that those of the environment do not count.
    pub(super) own_credentials: bool,
}

impl<K: FromStr + AsRef<str> + Copy> Settings<K> {
    /// The environment's variables that begin with `variables`, then `options`, whose keys are canonical.
    pub(super) fn read(variables: &str, options: &HashMap<String, String>) -> Self {
        let environment = std::env::vars_os().filter_map(|(key, value)| {
            let (key, value) = (key.into_string().ok()?, value.into_string().ok()?);
            key.starts_with(variables)
                .then(|| Some((key.to_ascii_lowercase().parse::<K>().ok()?, value)))?
        });
        Self::over(environment, options)
    }

    fn over(
        environment: impl Iterator<Item = (K, String)>,
        options: &HashMap<String, String>,
    ) -> Self {
        let own_credentials = options
            .keys()
            .any(|key| CREDENTIALS.contains(&key.as_str()));
        let given = options
            .iter()
            .filter_map(|(key, value)| Some((key.parse::<K>().ok()?, value.clone())));
        let values = environment
            .filter(|(key, _)| !(own_credentials && CREDENTIALS.contains(&key.as_ref())))
            .chain(given)
            .collect();
        Self {
            values,
            own_credentials,
        }
    }

    /// The value that counts.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().rfind(|(key, _)| key.as_ref() == name)?;
        Some(found.1.as_str())
    }

    /// What of them no message may show.
    pub(super) fn secrets(&self) -> Secrets {
        secrets(
            self.values
                .iter()
                .map(|(key, value)| (key.as_ref(), value.as_str())),
        )
    }
}

/// The secret ones among settings.
pub(super) fn secrets<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Secrets {
    let secret = settings.filter(|(key, _)| SECRETS.contains(key));
    Secrets::new(secret.flat_map(|(_, value)| {
        let signature = SasToken::signature(value).map(str::to_owned);
        signature.into_iter().chain([value.to_owned()])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::aws::AmazonS3ConfigKey;

    #[test]
    fn credentials_come_from_one_place() {
        let environment = || {
            [
                (AmazonS3ConfigKey::Token, "of the environment".to_owned()),
                (AmazonS3ConfigKey::Region, "eu-west-1".to_owned()),
            ]
            .into_iter()
        };
        let none = Settings::over(environment(), &HashMap::new());
        assert_eq!(none.get("aws_session_token"), Some("of the environment"));
        assert_eq!(none.secrets().redact("of the environment"), "…");
        let options = [
            ("aws_access_key_id", "id"),
            ("aws_secret_access_key", "secret-value"),
            ("aws_region", "eu-west-2"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let own = Settings::over(environment(), &HashMap::from(options));
        assert_eq!(own.get("aws_session_token"), None);
        assert_eq!(own.get("aws_region"), Some("eu-west-2"));
        assert_eq!(own.secrets().redact("id secret-value"), "id …");
    }
}
