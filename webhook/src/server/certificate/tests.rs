//! The pair as such, and replicas that agree on one.

use super::*;
use crate::health::fake_api::FakeApi;

const PATH: &str = "/api/v1/namespaces/puls8/secrets/tls";

fn names() -> Vec<String> {
    vec!["hook.puls8.svc".into(), "hook.puls8.svc.cluster.local".into()]
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

#[test]
fn renewed_when_a_third_is_left_or_the_names_change_and_by_the_same_authority() {
    let pair = Pair::generate(&names(), at("2026-01-01T12:00:00Z")).unwrap();
    assert_eq!(pair.expires, at("2027-01-01T00:00:00Z"));
    assert!(!pair.is_due(&names(), at("2026-08-01T00:00:00Z")));
    assert!(pair.is_due(&names(), at("2026-10-01T00:00:00Z")));
    assert!(pair.is_due(&names()[..1], at("2026-01-02T00:00:00Z")));
    let next = Pair::sign(pair.ca.clone(), pair.ca_key.clone(), &names(), at("2026-10-01T00:00:00Z")).unwrap();
    assert_eq!((&next.ca, next.expires), (&pair.ca, at("2027-10-01T00:00:00Z")));
    assert_ne!(next.certificate, pair.certificate);
}

#[test]
fn a_secret_holds_all_of_it() {
    let pair = Pair::generate(&names(), at("2026-01-01T12:00:00Z")).unwrap();
    let mut secret = pair.secret("tls");
    assert_eq!(Pair::read(&secret), Some(pair));
    secret.data.as_mut().unwrap().remove("ca.key");
    assert_eq!(Pair::read(&secret), None);
}

async fn load(api: &FakeApi) -> anyhow::Result<Certificates> {
    Certificates::load(&api.client(), "puls8", "tls", names()).await
}

#[tokio::test]
async fn two_replicas_that_start_together_serve_the_same_pair() {
    let api = FakeApi::default();
    let (one, other) = tokio::join!(load(&api), load(&api));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.pair.ca, other.pair.ca);
    assert_eq!(one.pair.certificate, load(&api).await.unwrap().pair.certificate);
    assert_eq!(other.pair.certificate, one.pair.certificate);
    assert_eq!(api.get(PATH).unwrap()["type"], "kubernetes.io/tls");
}

#[tokio::test]
async fn a_secret_that_ends_soon_is_renewed_once() {
    let api = FakeApi::default();
    let old = Pair::generate(&names(), Timestamp::now() - jiff::SignedDuration::from_hours(24 * 300)).unwrap();
    let mut secret = serde_json::to_value(old.secret("tls")).unwrap();
    secret["metadata"]["ownerReferences"] =
        serde_json::json!([{ "apiVersion": "v1", "kind": "X", "name": "x", "uid": "u" }]);
    api.put(PATH, secret);
    let (one, other) = tokio::join!(load(&api), load(&api));
    let (one, other) = (one.unwrap().pair, other.unwrap().pair);
    assert_eq!((&one.ca, &one.certificate), (&old.ca, &other.certificate));
    assert_ne!(one.certificate, old.certificate);
    assert_eq!(api.get(PATH).unwrap()["metadata"]["ownerReferences"][0]["uid"], "u", "still goes with the release");
}

#[tokio::test]
async fn a_secret_that_was_deleted_comes_back_as_it_was() {
    let api = FakeApi::default();
    let ours = load(&api).await.unwrap().pair;
    let gone = FakeApi::default();
    let secrets = Api::namespaced(gone.client(), "puls8");
    assert_eq!(settle(&secrets, "tls", &names(), Some(&ours)).await.unwrap(), ours);
    assert!(gone.get(PATH).is_some());
}

#[tokio::test]
async fn a_foreign_secret_is_replaced_and_an_unreachable_api_is_an_error() {
    let api = FakeApi::default();
    api.put(PATH, serde_json::json!({ "metadata": { "name": "tls" }, "data": { "tls.crt": "eA==" } }));
    let pair = load(&api).await.unwrap().pair;
    assert_eq!(Pair::read(&serde_json::from_value(api.get(PATH).unwrap()).unwrap()), Some(pair));
    api.down();
    assert!(load(&api).await.is_err());
}

#[tokio::test]
async fn key_and_certificate_match() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    load(&FakeApi::default()).await.unwrap().listener().await.unwrap();
}
