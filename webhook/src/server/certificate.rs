//! Our serving certificate: made at start, kept in a Secret that all replicas share.
//!
//! The chart does not render it, because a template would make another authority at each upgrade.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use axum_server::tls_rustls::RustlsConfig;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use kubernetes::watch::follow;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::health::cluster::FIELD_MANAGER;

/// The pause between two looks whether the certificate is due for renewal; a look makes no request.
const EVERY: Duration = Duration::from_secs(3600);
/// The pause after a Secret could not be read or written.
const AFTER_ERROR: Duration = Duration::from_secs(10);
/// How long an authority is valid.
const AUTHORITY_DAYS: i32 = 3650;
/// How long a certificate is valid; renewed when less than a third of it is left.
const LEAF_DAYS: i32 = 365;
/// The Secret's annotation that says when the certificate ends.
const EXPIRES: &str = "etcd-scaler.io/expires";
/// The Secret's annotation that says for which names the certificate is.
const NAMES: &str = "etcd-scaler.io/names";

/// The authority, and the certificate that it signed. All PEM.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    ca: String,
    ca_key: String,
    certificate: String,
    key: String,
    names: Vec<String>,
    expires: Timestamp,
}

impl Pair {
    fn generate(names: &[String], now: Timestamp) -> Result<Self, rcgen::Error> {
        let ca_key = KeyPair::generate()?;
        let mut params = authority_params();
        set_validity(&mut params, now, AUTHORITY_DAYS);
        let ca = params.self_signed(&ca_key)?.pem();
        Self::sign(ca, ca_key.serialize_pem(), names, now)
    }

    /// Another certificate by the same authority, so that no caBundle changes.
    fn sign(ca: String, ca_key: String, names: &[String], now: Timestamp) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&ca_key)?);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name("etcd-scaler webhook");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let expires = set_validity(&mut params, now, LEAF_DAYS);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Self { ca, ca_key, certificate, key: key.serialize_pem(), names: names.to_vec(), expires })
    }

    fn is_due(&self, names: &[String], now: Timestamp) -> bool {
        let left = now.duration_until(self.expires).as_hours();
        left < i64::from(LEAF_DAYS) * 24 / 3 || self.names != names
    }

    /// From the Secret; `None` when anything is missing or is not what we wrote.
    fn read(secret: &Secret) -> Option<Self> {
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        let annotation = |key: &str| secret.metadata.annotations.as_ref()?.get(key).map(String::as_str);
        Some(Self {
            ca: text("ca.crt")?,
            ca_key: text("ca.key")?,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            names: annotation(NAMES)?.split(',').map(str::to_owned).collect(),
            expires: annotation(EXPIRES)?.parse().ok()?,
        })
    }

    /// As a Secret.
    fn secret(&self, name: &str) -> Secret {
        let Self { ca, ca_key, certificate, key, names, expires } = self;
        let parts = [("ca.crt", ca), ("ca.key", ca_key), ("tls.crt", certificate), ("tls.key", key)];
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                annotations: Some(BTreeMap::from([
                    (NAMES.into(), names.join(",")),
                    (EXPIRES.into(), expires.to_string()),
                ])),
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), FIELD_MANAGER.into())])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(parts.map(|(key, pem)| (key.to_owned(), ByteString(pem.clone().into_bytes()))).into()),
            ..Secret::default()
        }
    }
}

/// The parameters of the authority. They are always the same, so that they need not be read from its certificate.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("etcd-scaler webhook authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Makes a certificate valid for that many days, and gives their end. It begins the day before:
/// another machine's clock may be behind.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i32) -> Timestamp {
    let today = now.to_zoned(TimeZone::UTC).date();
    let midnight = |date: Date| {
        let (month, day) = (date.month().cast_unsigned(), date.day().cast_unsigned());
        rcgen::date_time_ymd(date.year().into(), month, day)
    };
    let end = today.saturating_add(days.days());
    params.not_before = midnight(today.saturating_sub(1.day()));
    params.not_after = midnight(end);
    end.to_zoned(TimeZone::UTC).map_or(now, |end| end.timestamp())
}

/// The pair in force, and the Secret that holds it.
pub struct Certificates {
    secrets: Api<Secret>,
    secret: String,
    names: Vec<String>,
    pair: Pair,
    authority: watch::Sender<Vec<u8>>,
}

impl Certificates {
    /// The pair from the Secret, which is made if it is absent.
    ///
    /// # Errors
    /// When the Secret can neither be read nor made.
    pub async fn load(client: &Client, namespace: &str, secret: &str, names: Vec<String>) -> anyhow::Result<Self> {
        let secrets = Api::namespaced(client.clone(), namespace);
        let pair = settle(&secrets, secret, &names, None).await?;
        let authority = watch::Sender::new(pair.ca.clone().into_bytes());
        Ok(Self { secrets, secret: secret.to_owned(), names, pair, authority })
    }

    /// The authority in force, as PEM.
    pub fn authority(&self) -> watch::Receiver<Vec<u8>> {
        self.authority.subscribe()
    }

    /// The pair, for the listener.
    ///
    /// # Errors
    /// When key and certificate do not match.
    pub async fn listener(&self) -> anyhow::Result<RustlsConfig> {
        let Pair { certificate, key, .. } = &self.pair;
        let config = RustlsConfig::from_pem(certificate.clone().into_bytes(), key.clone().into_bytes()).await;
        config.with_context(|| {
            format!("the pair in Secret {} is unusable; delete the Secret to have another made", self.secret)
        })
    }

    /// Watches the Secret, in which the other replica may have renewed the certificate; renews it in time; and loads a
    /// new one.
    pub async fn keep(mut self, listener: RustlsConfig) {
        let (tell, mut told) = watch::channel(());
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.secret));
        tokio::spawn(follow(self.secrets.clone(), config, "the Secret", move |_| tell.send_replace(())));
        let mut pause = EVERY;
        loop {
            let changed = tokio::time::timeout(pause, told.changed()).await.is_ok();
            let due = self.pair.is_due(&self.names, Timestamp::now());
            if !changed && !due && pause == EVERY {
                continue;
            }
            pause = EVERY;
            let pair = match settle(&self.secrets, &self.secret, &self.names, Some(&self.pair)).await {
                Ok(pair) if pair != self.pair => pair,
                Ok(_) => continue,
                Err(error) => {
                    warn!("the serving certificate stays as it is: {error:#}");
                    pause = AFTER_ERROR;
                    continue;
                }
            };
            // Key and certificate are loaded together. If they do not match, the pair in force stays.
            match listener.reload_from_pem(pair.certificate.clone().into_bytes(), pair.key.clone().into_bytes()).await {
                Ok(()) => {
                    info!(expires = %pair.expires, "another serving certificate is in force");
                    self.authority.send_replace(pair.ca.clone().into_bytes());
                    self.pair = pair;
                }
                Err(error) => warn!(%error, "the pair in Secret {} is unusable, the one in force stays", self.secret),
            }
        }
    }
}

/// The pair that all replicas use: that in the Secret, made or renewed if necessary. The replica that writes first
/// decides, and the other one reads it.
async fn settle(secrets: &Api<Secret>, name: &str, names: &[String], ours: Option<&Pair>) -> anyhow::Result<Pair> {
    for _ in 0..5 {
        let now = Timestamp::now();
        let found = secrets.get_opt(name).await.with_context(|| format!("cannot read Secret {name}"))?;
        let held = found.as_ref().and_then(Pair::read);
        let pair = match held.or_else(|| found.is_none().then(|| ours.cloned()).flatten()) {
            Some(pair) if found.is_some() && !pair.is_due(names, now) => return Ok(pair),
            Some(pair) if pair.is_due(names, now) => Pair::sign(pair.ca, pair.ca_key, names, now)?,
            Some(pair) => pair,
            None => Pair::generate(names, now)?,
        };
        let replaces = found.is_some();
        let mut secret = pair.secret(name);
        if let Some(found) = found {
            secret.metadata.resource_version = found.metadata.resource_version;
            secret.metadata.owner_references = found.metadata.owner_references;
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let written = match replaces {
            true => secrets.replace(name, &params, &secret).await,
            false => secrets.create(&params, &secret).await,
        };
        match written {
            Ok(_) => {
                info!(secret = name, expires = %pair.expires, "serving certificate written");
                return Ok(pair);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write Secret {name}")),
        }
    }
    anyhow::bail!("Secret {name} is written by others all the time")
}

#[cfg(test)]
mod tests;
