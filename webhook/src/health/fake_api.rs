//! An API server of a few lines, for tests: objects by their URL, with resource versions and
//! conflicts as the real one has them. State and behaviour, not expected calls.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response};
use kube::Client;
use serde_json::{Value, json};
use tower::service_fn;

/// Objects by path. Cheap to clone; clones are the same server.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    down: bool,
}

impl FakeApi {
    /// A client of it.
    pub fn client(&self) -> Client {
        let state = self.0.clone();
        let serve = service_fn(move |request: Request<kube::client::Body>| {
            let state = state.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = state.lock().unwrap().answer(&parts.method, parts.uri.path(), body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        Client::new(serve, "puls8")
    }

    /// Puts an object.
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path.to_owned(), object);
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// The objects under a path.
    pub fn under(&self, path: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state.objects.iter().filter(|(at, _)| at.starts_with(path)).map(|(_, object)| object.clone()).collect()
    }

    /// Every call is answered 500 from now on.
    pub fn down(&self) {
        self.0.lock().unwrap().down = true;
    }
}

impl State {
    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path, object.clone());
        object
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let status = |code: u16| {
            let reason = if code == 404 { "NotFound" } else { "Other" };
            (code, json!({ "status": "Failure", "code": code, "message": path, "reason": reason }))
        };
        if self.down {
            return status(500);
        }
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        match *method {
            Method::GET => self.objects.get(path).map_or(status(404), |object| (200, object.clone())),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) { status(409) } else { (201, self.store(path, body)) }
            }
            Method::PUT => match self.objects.get(path) {
                None => status(404),
                Some(live) if version(live) != version(&body) => status(409),
                Some(_) => (200, self.store(path.to_owned(), body)),
            },
            Method::PATCH => match self.objects.get(path).cloned() {
                None => status(404),
                Some(mut object) => {
                    let patched = if body.is_array() {
                        let patch = serde_json::from_value::<json_patch::Patch>(body).unwrap();
                        json_patch::patch(&mut object, &patch).is_ok()
                    } else {
                        json_patch::merge(&mut object, &body);
                        true
                    };
                    if patched { (200, self.store(path.to_owned(), object)) } else { status(422) }
                }
            },
            _ => status(405),
        }
    }
}
