//! The HTTPS listener: `/mutate`, `/validate`, `/livez`, `/readyz`.

pub mod bundle;
pub mod certificate;
pub mod readiness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::admission::{Admission, NoVerdict, Verdict};
use crate::server::readiness::Readiness;

/// A review holds two objects of at most 1.5 MiB each, as JSON.
const BODY_LIMIT: usize = 8 << 20;
/// How long it goes on serving after SIGTERM, until the Service sends nothing here any more. A call to a closed port
/// would be decided by its failure policy, so refused.
const LINGER: Duration = Duration::from_secs(3);
/// How long calls under way may then take.
const DRAIN: Duration = Duration::from_secs(10);

struct Served {
    admission: Admission,
    readiness: Arc<Readiness>,
}

/// The routes.
pub fn router(admission: Admission, readiness: Arc<Readiness>) -> Router {
    let served = Arc::new(Served { admission, readiness });
    Router::new()
        .route("/mutate", post(mutate))
        .route("/validate", post(validate))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(served)
}

/// Serves until SIGTERM, then lets the calls under way end.
///
/// # Errors
/// When the listener cannot be bound or fails.
pub async fn serve(
    listen: SocketAddr,
    tls: RustlsConfig,
    admission: Admission,
    readiness: Arc<Readiness>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let handle = Handle::new();
    tokio::spawn({
        let (handle, readiness) = (handle.clone(), readiness.clone());
        async move {
            terminate.recv().await;
            info!("stopping");
            readiness.stopping();
            tokio::time::sleep(LINGER).await;
            handle.graceful_shutdown(Some(DRAIN));
        }
    });
    info!(%listen, "listening");
    axum_server::bind_rustls(listen, tls)
        .handle(handle)
        .serve(router(admission, readiness).into_make_service())
        .await
        .with_context(|| format!("cannot listen on {listen}"))
}

/// Calls our own listener over TLS, under the name that the API server uses, until it answers once.
pub async fn check_own_listener(
    port: u16,
    name: String,
    authority: watch::Receiver<Vec<u8>>,
    readiness: Arc<Readiness>,
) {
    loop {
        let pem = authority.borrow().clone();
        match call_own_listener(port, &name, &pem).await {
            Ok(()) => return readiness.listener_answered(),
            Err(error) => warn!("our own listener does not answer as {name}: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn call_own_listener(port: u16, name: &str, authority: &[u8]) -> anyhow::Result<()> {
    let mut config = kube::Config::new(format!("https://127.0.0.1:{port}").parse()?);
    config.root_cert = Some(vec![CertificateDer::from_pem_slice(authority)?.to_vec()]);
    config.tls_server_name = Some(name.to_owned());
    let client = kube::Client::try_from(config)?;
    let call = client.request_text(Request::get("/livez").body(Vec::new())?);
    tokio::time::timeout(Duration::from_secs(2), call).await.context("no answer in 2 s")??;
    Ok(())
}

async fn readyz(State(served): State<Arc<Served>>) -> Response {
    let missing = served.readiness.missing();
    if missing.is_empty() {
        return "ok".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("; ")).into_response()
}

async fn mutate(State(served): State<Arc<Served>>, Json(review): Json<AdmissionReview<DynamicObject>>) -> Response {
    answer(review, async |request| served.admission.mutate(request).await).await
}

async fn validate(State(served): State<Arc<Served>>, Json(review): Json<AdmissionReview<DynamicObject>>) -> Response {
    answer(review, async |request| served.admission.validate(request).await).await
}

async fn answer(
    review: AdmissionReview<DynamicObject>,
    decide: impl AsyncFnOnce(&AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict>,
) -> Response {
    let began = Instant::now();
    let request: AdmissionRequest<DynamicObject> = match review.try_into() {
        Ok(request) => request,
        Err(error) => return Json(AdmissionResponse::invalid(error).into_review()).into_response(),
    };
    let verdict = match decide(&request).await {
        Ok(verdict) => verdict,
        // An error of ours is no decision, so the call fails, and the failure policy decides.
        Err(why) => {
            error!(uid = request.uid, name = request.name, why, "no verdict");
            return (StatusCode::INTERNAL_SERVER_ERROR, why).into_response();
        }
    };
    log(&request, &verdict, began.elapsed());
    // The response is always made from the request. Without the request's uid it is an error to the API server, and
    // with failurePolicy Ignore a refusal would then pass.
    match respond(AdmissionResponse::from(&request), verdict) {
        Ok(response) => Json(response.into_review()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn respond(
    response: AdmissionResponse,
    verdict: Verdict,
) -> Result<AdmissionResponse, kube::core::admission::SerializePatchError> {
    match verdict {
        // Without a code the API server answers 400 (facts-kubernetes H).
        Verdict::Deny(why) => Ok(refused(response, why, StatusCode::FORBIDDEN, "Forbidden")),
        // kubectl drain tries again on this code only, and prints the reason each time. With retryAfterSeconds its
        // client library would try again silently.
        Verdict::Later(why) => Ok(refused(response, why, StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")),
        Verdict::Allow { patch, warnings } => {
            let mut response = response;
            response.warnings = (!warnings.is_empty()).then_some(warnings);
            if patch.is_empty() { Ok(response) } else { response.with_patch(patch) }
        }
    }
}

fn refused(response: AdmissionResponse, why: String, code: StatusCode, reason: &str) -> AdmissionResponse {
    let mut response = response.deny(why);
    response.result.code = code.as_u16();
    response.result.reason = reason.into();
    response
}

fn log(request: &AdmissionRequest<DynamicObject>, verdict: &Verdict, took: Duration) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let AdmissionRequest { uid, kind, namespace, name, operation, dry_run, user_info, .. } = request;
    // A pod of a StatefulSet is created without a name in the request: it is in the object.
    let in_object = request.object.as_ref().and_then(|object| object.metadata.name.as_deref());
    let name = if name.is_empty() { in_object.unwrap_or_default() } else { name };
    let (kind, namespace) = (&kind.kind, namespace.as_deref().unwrap_or_default());
    let user = user_info.username.as_deref().unwrap_or_default();
    match verdict {
        Verdict::Allow { patch, warnings } => {
            info!(
                uid,
                kind,
                namespace,
                name,
                ?operation,
                user,
                dry_run,
                took_us,
                allowed = true,
                patches = patch.len(),
                ?warnings,
                "admission"
            );
        }
        Verdict::Deny(why) | Verdict::Later(why) => {
            info!(uid, kind, namespace, name, ?operation, user, dry_run, took_us, allowed = false, why, "admission");
        }
    }
}

#[cfg(test)]
mod tests;
